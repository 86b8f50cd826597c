"""COCO JSON to training: what is written, what is left out and listed, and that it is done once."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.sets import annotation, coco_set, coco_values, keypoint_categories, kinds, picture
from yolo_gradsafe.data import PrepareError, prepare, run_check
from yolo_gradsafe.data.convert import for_training
from yolo_gradsafe.data.convert.flip import flip_order
from yolo_gradsafe.data.convert.links import Names
from yolo_gradsafe.data.place import cache_folder

SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_NAMES = ["nose", *(f"{side}_{part}" for part in SIDED for side in ("left", "right"))]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def rows(data: Path, split: str = "train") -> dict[str, list[str]]:
    return {path.stem: path.read_text().splitlines() for path in (data.parent / "labels" / split).glob("*.txt")}


def left_out(data: Path) -> list[dict[str, str]]:
    with (data.parent / "left_out.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_boxes_classes_and_links(tmp_path: Path, cache: Path) -> None:
    made = prepare(coco_set(tmp_path), "detect", cache=cache)
    content = yaml.safe_load(made.data.read_text())
    assert content["names"] == {0: "cat", 1: "dog"}, "numbered from 0 in the order of their ids"
    assert "kpt_shape" not in content
    assert rows(made.data) == {"1": ["0 0.3125 0.333333 0.375 0.333333"], "2": ["1 0.3125 0.333333 0.375 0.333333"]}
    link = made.data.parent / "images" / "train" / "1.jpg"
    assert link.is_symlink()
    assert link.resolve() == (tmp_path / "images" / "1.jpg").resolve()
    assert left_out(made.data) == []
    assert kinds(run_check(made.data)) == {"split_overlap": 2}


def test_what_cannot_be_trained_on_is_left_out_and_listed(tmp_path: Path, cache: Path) -> None:
    bad: list[Any] = [
        annotation(11, bbox=["a", 1, 2, 3]),
        annotation(12, bbox=[1, 1, 0, 3]),
        annotation(13, bbox=[90, 1, 2, 3]),
        annotation(14, category_id=3),
        annotation(15, image_id=3),
        annotation(16, iscrowd=1),
        annotation(17, bbox=[60, 40, 40, 40]),
        "no annotation",
    ]
    made = prepare(coco_set(tmp_path, bad), "detect", cache=cache)
    assert rows(made.data)["1"] == ["0 0.3125 0.333333 0.375 0.333333", "0 0.96875 0.916667 0.0625 0.166667"], "clipped"
    assert {row["annotation"]: row["kind"] for row in left_out(made.data)} == {
        "11": "json_structure",
        "12": "box_degenerate",
        "13": "box_range",
        "14": "category_unknown",
        "15": "image_unknown",
        "16": "crowd",
        "annotations[9]": "json_structure",
    }
    assert "10 annotations: 3 labels, 7 left out (2 json_structure, " in made.notes[0]
    assert any("7 annotations were left out" in note and "left_out.csv" in note for note in made.notes)
    assert not run_check(made.data).errors


def test_images_that_cannot_be_used_are_left_out(tmp_path: Path, cache: Path) -> None:
    images = [*coco_values()["images"], {"id": 3, "file_name": "3.jpg", "width": 64, "height": 48}]
    images += [{"id": 4, "file_name": "4.jpg", "width": 64, "height": 48}, {"id": 5, "file_name": "5.jpg"}]
    path = coco_set(tmp_path, [annotation(9, image_id=3)], images=images)
    (tmp_path / "images" / "3.jpg").mkdir()
    picture(tmp_path / "images" / "4.jpg", size=(48, 64))
    made = prepare(path, "detect", cache=cache)
    assert set(rows(made.data)) == {"1", "2"}
    found = {Path(row["image"]).name: row["kind"] for row in left_out(made.data)}
    assert found == {"3.jpg": "image_unreadable", "4.jpg": "image_size", "5.jpg": "image_missing"}


def test_keypoints(tmp_path: Path, cache: Path) -> None:
    entries = [
        annotation(1, keypoints=[10, 10, 2, 11, 11, 1, 70, 11, 2]),
        annotation(2, image_id=2, keypoints=[0] * 9),
        annotation(3, image_id=2, keypoints=[32, 24, 2], bbox=[0, 0, 64, 48]),
    ]
    path = coco_set(tmp_path, categories=keypoint_categories())
    path.write_text(json.dumps(coco_values(categories=keypoint_categories()) | {"annotations": entries}))
    made = prepare(path, "pose", cache=cache)
    content = yaml.safe_load(made.data.read_text())
    assert (content["kpt_shape"], content["flip_idx"]) == ([3, 3], [0, 2, 1])
    first, second = rows(made.data)["1"], rows(made.data)["2"]
    assert first == ["0 0.3125 0.333333 0.375 0.333333 0.15625 0.208333 2 0.171875 0.229167 1 0 0 0"]
    assert second == ["0 0.5 0.5 1 1 0.5 0.5 2 0 0 0 0 0 0"]
    assert [(row["annotation"], row["kind"]) for row in left_out(made.data)] == [("2", "keypoint_none")]
    assert kinds(run_check(made.data)) == {"split_overlap": 2}
    boxes = prepare(path, "detect", cache=cache)
    assert boxes.data != made.data
    assert len(rows(boxes.data)["2"]) == 2


def test_pose_takes_the_categories_with_keypoints(tmp_path: Path, cache: Path) -> None:
    categories = [{"id": 3, "name": "tree"}, *keypoint_categories()]
    entries = [annotation(1, keypoints=[10, 10, 2, 11, 11, 1, 12, 11, 2]), annotation(2, category_id=3)]
    path = coco_set(tmp_path)
    path.write_text(json.dumps(coco_values() | {"annotations": entries, "categories": categories}))
    made = prepare(path, "pose", cache=cache)
    assert yaml.safe_load(made.data.read_text())["names"] == {0: "cat"}
    assert rows(made.data)["1"][0].startswith("0 ")
    assert [row["annotation"] for row in left_out(made.data)] == ["2"]


def test_it_is_done_once_for_the_same_content(tmp_path: Path, cache: Path) -> None:
    path = coco_set(tmp_path)
    first = prepare(path, "detect", cache=cache)
    before = {p: p.lstat().st_mtime_ns for p in first.data.parent.rglob("*")}
    second = prepare(path, "detect", cache=cache)
    assert (first.fresh, second.fresh) == (True, False)
    assert (first.data, first.notes) == (second.data, second.notes)
    assert {p: p.lstat().st_mtime_ns for p in first.data.parent.rglob("*")} == before
    path.write_text(json.dumps(coco_values([annotation(3)])))
    third = prepare(path, "detect", cache=cache)
    assert third.fresh
    assert third.data != first.data
    assert not [p for p in cache.iterdir() if p.name.startswith(".")], "nothing is left behind"


def test_images_that_come_or_go_are_noticed(tmp_path: Path, cache: Path) -> None:
    images = [*coco_values()["images"], {"id": 3, "file_name": "late.jpg", "width": 64, "height": 48}]
    path = coco_set(tmp_path, [annotation(9, image_id=3)], images=images)
    assert set(rows(prepare(path, "detect", cache=cache).data)) == {"1", "2"}
    picture(tmp_path / "images" / "late.jpg")
    made = prepare(path, "detect", cache=cache)
    assert made.fresh
    assert set(rows(made.data)) == {"1", "2", "late"}
    (tmp_path / "images" / "1.jpg").unlink()
    assert set(rows(prepare(path, "detect", cache=cache).data)) == {"2", "late"}


def test_a_lone_json_validates_on_itself_its_sibling_or_a_share(tmp_path: Path, cache: Path) -> None:
    path = coco_set(tmp_path)
    made = prepare(path, "detect", cache=cache)
    assert yaml.safe_load(made.data.read_text())["val"] == "images/train"
    assert any("validation runs on the training images" in note for note in made.notes)

    train = path.rename(tmp_path / "instances_train.json")
    (tmp_path / "instances_val.json").write_text(json.dumps(coco_values()))
    pair = prepare(train, "detect", cache=cache)
    assert yaml.safe_load(pair.data.read_text())["val"] == "images/val"
    assert len(rows(pair.data, "val")) == 2
    assert not any("validation" in note for note in pair.notes)

    (tmp_path / "share.yaml").write_text("train: instances_train.json\nsplit: 0.5\n")
    share = prepare(tmp_path / "share.yaml", "detect", cache=cache)
    assert (len(rows(share.data)), len(rows(share.data, "val"))) == (1, 1)
    assert any("1 of the images are used for validation" in note for note in share.notes)
    for wrong in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(PrepareError, match="split"):
            prepare(train, "detect", cache=cache, split=wrong)


def test_names_that_would_be_trouble(tmp_path: Path, cache: Path) -> None:
    names = ["images/a.jpg", "a.png", "a.jpg", "../out.jpg", "ü x.jpg", "line\nbreak.jpg"]
    images = [{"id": k, "file_name": name, "width": 64, "height": 48} for k, name in enumerate(names)]
    entries = [annotation(k, image_id=k) for k in range(len(names))]
    path = coco_set(tmp_path / "in")
    path.write_text(json.dumps(coco_values() | {"images": images, "annotations": entries}))
    for k, name in enumerate(names):
        picture(tmp_path / "in" / "images" / name, seed=k)
    made = prepare(path, "detect", images=tmp_path / "in" / "images", cache=cache)
    linked = sorted(p.name for p in (made.data.parent / "images" / "train").iterdir())
    assert linked == ["a-2.jpg", "a.png", "images_a.jpg", "line_break.jpg", "out.jpg", "ü x.jpg"]
    assert all(len(lines) == 1 for lines in rows(made.data).values())
    assert len(rows(made.data)) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("{}", "missing"), (json.dumps(coco_values() | {"annotations": []}), "no object")],
)
def test_nothing_to_train_on(tmp_path: Path, cache: Path, text: str, message: str) -> None:
    path = coco_set(tmp_path)
    path.write_text(text)
    with pytest.raises(PrepareError, match=message):
        prepare(path, "detect", cache=cache)
    assert not list(cache.iterdir())


def test_tasks_without_a_conversion(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(PrepareError, match="detect, pose, segment, obb only"):
        prepare(coco_set(tmp_path), "classify", cache=cache)
    with pytest.raises(PrepareError, match="none of 2 objects has an outline"):
        prepare(coco_set(tmp_path), "segment", cache=cache)
    with pytest.raises(PrepareError, match="keypoints"):
        prepare(coco_set(tmp_path), "pose", cache=cache)


def test_what_training_gets(tmp_path: Path, cache: Path) -> None:
    path = coco_set(tmp_path)
    (tmp_path / "coco.yaml").write_text("train: annotations.json")
    (tmp_path / "yolo.yaml").write_text("train: images")
    (tmp_path / "bad.yaml").write_text("train: [")
    for data in (path, tmp_path / "coco.yaml", str(tmp_path / "coco.yaml")):
        made = for_training(data, "detect", cache)
        assert made is not None
        assert len(rows(made.data)) == 2
    as_they_are = ["yolo.yaml", "bad.yaml", "coco8.yaml", "nowhere.json", "x" * 5000, None, {"train": "a"}]
    for data in as_they_are:
        place = tmp_path / data if isinstance(data, str) and data.endswith("o.yaml") else data
        assert for_training(place, "detect", cache) is None
    assert for_training(path, "classify", cache) is None, "a task of other data"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (COCO_NAMES, [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]),
        (["top", "right", "bottom", "left"], [0, 3, 2, 1]),
        (["LeftEye", "RightEye", "Nose"], [1, 0, 2]),
        (["eye-L", "eye-R"], [1, 0]),
        (["l_eye", "r_eye", "tail"], [1, 0, 2]),
        (["nose", "tail"], None),
        (["left_eye", "nose"], None),
        (["1", "2", "3"], None),
        (["left", "left", "right"], None),
        (["leftover", "rightover"], None),
        ([], None),
    ],
)
def test_the_mirror_is_told_by_names(names: list[str], expected: list[int] | None) -> None:
    assert flip_order(names) == expected


def test_names_are_given_once() -> None:
    names = Names()
    assert [names.fresh(name) for name in ("a.jpg", "A.JPG", "b/a.jpg", "...jpg", "\x1b.png")] == [
        "a.jpg",
        "A-2.JPG",
        "b_a.jpg",
        "image.jpg",
        "_.png",
    ]
    assert names.fresh("x" * 400 + ".jpg") == "x" * 200 + ".jpg"
    assert len(names.fresh("図" * 90 + ".jpg").encode()) < 255


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GRADSAFE_CACHE", "YOLO_CONFIG_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tmp_path / "home" in cache_folder("coco").parents
    for variable, place in (
        ("XDG_CACHE_HOME", "gradsafe/coco"),
        ("YOLO_CONFIG_DIR", "gradsafe/coco"),
        ("GRADSAFE_CACHE", "coco"),
    ):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        assert cache_folder("coco") == tmp_path / variable / place
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRADSAFE_CACHE", str(tmp_path / "file"))
    spare = cache_folder("coco")
    assert spare.is_dir()
    os.rmdir(spare)
