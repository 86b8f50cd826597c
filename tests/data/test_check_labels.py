"""Label files: each mistake is found once, with its file and line, and nothing is found where there is none."""

from __future__ import annotations

import builtins
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.sets import GOOD, POSE, TWO_POINTS, example, kinds, picture, yolo_set
from yolo_gradsafe.data import run_check
from yolo_gradsafe.data.examine import CROWDED

BOXES = {
    "nan": ("0 nan 0.5 0.1 0.1", "label_nonfinite", "column 2 is nan"),
    "inf": ("0 0.5 0.5 inf 0.1", "label_nonfinite", "column 4 is inf"),
    "huge": ("0 0.5 0.5 1e999 0.1", "label_nonfinite", "column 4 is 1e999"),
    "four columns": ("0 0.5 0.5 0.1", "label_columns", "4 columns, expected 5"),
    "six columns": ("0 0.5 0.5 0.1 0.1 0.9", "label_columns", "6 columns, expected 5"),
    "words": ("cat 0.5 0.5 0.1 0.1", "label_syntax", "'cat 0.5 0.5 0.1 0.1' is not a row"),
    "commas": ("0,0.5,0.5,0.1,0.1", "label_syntax", "is not a row"),
    "class": ("2 0.5 0.5 0.1 0.1", "class_id", "class 2, expected 0 to 1"),
    "negative class": ("-1 0.5 0.5 0.1 0.1", "class_id", "class -1"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", "class_id", "class 0.5"),
    "pixels": ("0 320 240 100 80", "box_range", "centre 320 240"),
    "no width": ("0 0.5 0.5 0 0.1", "box_degenerate", "width 0"),
    "negative": ("0 0.5 0.5 -0.1 0.1", "box_degenerate", "width -0.1"),
    "over the edge": ("0 0.95 0.5 0.3 0.1", "box_beyond_edge", "10.0% of the image"),
    "subpixel": ("0 0.5 0.5 0.001 0.05", "box_subpixel", "0.64 x 24 pixels"),
    "thin": ("0 0.5 0.5 0.9 0.01", "box_aspect", "120 times"),
    "twice": (GOOD + GOOD.strip(), "box_duplicate", "same class and box as line 2"),
}


@pytest.mark.parametrize("name", BOXES)
def test_a_wrong_box_is_found_with_its_line(tmp_path: Path, name: str) -> None:
    line, kind, message = BOXES[name]
    health = run_check(yolo_set(tmp_path, {"bad": f"{GOOD if name != 'twice' else ''}\n{line}\n"}))
    assert kinds(health) == {kind: 1}
    found = example(health, kind)
    assert message in found.message
    assert found.file == str(tmp_path / "labels" / "train" / "bad.txt")
    assert found.line == 3
    assert found.image == str(tmp_path / "images" / "train" / "bad.jpg")
    assert health.errors + health.warnings == 1


KEYPOINTS = {
    "columns": (GOOD, "label_columns", "5 columns, expected 11 (class, box, 2 keypoints of 3 numbers)"),
    "visibility": ("0 0.45 0.5 0.5 0.5 0.4 0.4 3 0.6 0.6 1", "keypoint_visibility", "keypoint 1 has visibility 3"),
    "outside": ("0 0.45 0.5 0.5 0.5 0.4 0.4 2 0.6 1.2 1", "keypoint_outside_image", "keypoint 2 at 0.6 1.2"),
    "negative": ("0 0.45 0.5 0.5 0.5 0.4 0.4 2 -0.6 0.2 0", "keypoint_outside_image", "keypoint 2"),
    "far": ("0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.95 0.5 2", "keypoint_outside_box", "keypoint 2 is 224 pixels"),
    "none": ("0 0.45 0.5 0.5 0.5 0 0 0 0 0 0", "keypoint_none", "none of 2"),
    "nan": ("0 0.45 0.5 0.5 0.5 nan 0.4 2 0.6 0.6 1", "label_nonfinite", "column 6 is nan"),
}


@pytest.mark.parametrize("name", KEYPOINTS)
def test_a_wrong_keypoint_is_found_with_its_line(tmp_path: Path, name: str) -> None:
    line, kind, message = KEYPOINTS[name]
    health = run_check(yolo_set(tmp_path, {"bad": POSE + line}, **TWO_POINTS))
    assert kinds(health) == {kind: 1}
    assert message in example(health, kind).message
    assert example(health, kind).line == 2


def test_an_oks_area_of_zero_is_found(tmp_path: Path) -> None:
    health = run_check(yolo_set(tmp_path, {"bad": "0 0.5 0.5 0.001 0.001 0.5 0.5 2 0.5 0.5 2"}, **TWO_POINTS))
    assert kinds(health) == {"oks_area": 1, "box_subpixel": 1}


def test_two_numbers_a_keypoint(tmp_path: Path) -> None:
    keys = {"kpt_shape": [2, 2], "flip_idx": [1, 0], "names": ["person"]}
    data = yolo_set(tmp_path, **keys)
    for label in tmp_path.glob("labels/*/*.txt"):
        label.write_text("0 0.5 0.5 0.5 0.5 0.4 0.4 0.6 0.6\n")
    health = run_check(data)
    assert kinds(health) == {}
    assert health.keypoints == [2, 2]


def test_pose_labels_serve_detection(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"boxes": GOOD}, **TWO_POINTS)
    assert kinds(run_check(data, task="detect"))["keypoint_none"] == 1
    assert kinds(run_check(data, task="pose")) == {"label_columns": 1}


def test_outlines_are_boxes_and_do_not_mix_with_them(tmp_path: Path) -> None:
    outline = "0 0.1 0.1 0.4 0.1 0.4 0.6\n"
    health = run_check(
        yolo_set(tmp_path, {"shape": outline, "mixed": outline + GOOD, "flat": "1 0.1 0.1 0.2 0.1 0.3 0.1"})
    )
    assert kinds(health) == {"label_mixed": 1, "box_degenerate": 1}
    assert example(health, "label_mixed").file.endswith("mixed.txt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    bad = {"utf16": GOOD.encode("utf-16"), "folder": "", "pipe": "", "loop": ""}
    fine = {"bom": b"\xef\xbb\xbf" + GOOD.encode(), "crlf": GOOD.replace("\n", "\r\n")}
    data = yolo_set(tmp_path, {**bad, **fine})
    labels = tmp_path / "labels" / "train"
    for name in ("folder", "pipe", "loop"):
        (labels / f"{name}.txt").unlink()
    (labels / "folder.txt").mkdir()
    os.mkfifo(labels / "pipe.txt")
    (labels / "loop.txt").symlink_to("loop.txt")
    health = run_check(data)
    assert kinds(health) == {"label_unreadable": 4}
    messages = " ".join(found.message for found in health.kinds[0].examples)
    for words in ("not UTF-8", "folder", "pipe", "symbolic links"):
        assert words in messages


def test_files_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = yolo_set(tmp_path)
    forbidden = tmp_path / "labels" / "train" / "a.txt", tmp_path / "images" / "train" / "b.jpg"
    real = builtins.open

    def refuse(file: Any, *args: Any, **keys: Any) -> Any:
        if file in map(str, forbidden):  # chmod would not keep root out
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)
        return real(file, *args, **keys)

    monkeypatch.setattr(builtins, "open", refuse)
    health = run_check(data)
    assert kinds(health) == {"label_unreadable": 1, "image_unreadable": 1}
    assert "Permission denied" in example(health, "image_unreadable").message


def test_thousands_of_objects(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(f"0 {x:.6f} {y:.6f} 0.1 0.1\n" for x, y in rng.uniform(0.3, 0.7, (CROWDED + 1, 2)))
    health = run_check(yolo_set(tmp_path, {"many": rows}))
    assert kinds(health) == {"crowded": 1}
    assert health.splits["train"].objects == CROWDED + 5


def test_odd_names_are_data(tmp_path: Path) -> None:
    folder = tmp_path / "größe 図 #1 [red]"
    names = ["with space", "ünïcode", "line\nbreak", "\x1b[31mred", "x.y"]
    data = yolo_set(folder, dict.fromkeys(names, GOOD + "0 nan 0 0 0"))
    health = run_check(data)
    assert kinds(health) == {"label_nonfinite": len(names)}
    from yolo_gradsafe.data.health_table import table

    text = table(health)
    assert "\x1b" not in text
    assert "line\nbreak" not in text
    assert "größe 図 #1 [red]" in text


def test_bytes_that_are_no_text_in_a_name(tmp_path: Path) -> None:
    data = yolo_set(tmp_path)
    picture(tmp_path / "one.jpg").rename(os.fsdecode(os.fsencode(tmp_path) + b"/images/train/\xff.jpg"))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/labels/train/\xff.txt")).write_text("0 nan 0 0 0")
    health = run_check(data)
    assert kinds(health) == {"label_nonfinite": 1}
    assert "label_nonfinite" in health.to_json()
    assert health.warning


def test_what_is_right_has_no_finding(drawn: dict[str, Path]) -> None:
    for task, data in drawn.items():
        health = run_check(data, imgsz=64, batch=4)
        assert kinds(health) == {}, task
        assert health.complete
        assert health.headline.startswith("Nothing serious in 12 images")
