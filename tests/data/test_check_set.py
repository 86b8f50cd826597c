"""The set as a whole: YAML, folders, splits, mirror of the keypoints, and what cannot be read at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.sets import GOOD, POSE, example, kinds, picture, yolo_set
from yolo_gradsafe.data import CheckError, Health, run_check
from yolo_gradsafe.data.kinds import KINDS


@pytest.mark.parametrize(
    ("keys", "expected", "message"),
    [
        ({"names": None}, {"yaml_key": 1}, "'names' is missing"),
        ({"names": {0: "a", 2: "b"}}, {"yaml_key": 1, "class_unused": 1}, "not 0 to 1"),
        ({"names": "cat"}, {"yaml_key": 1}, "expected a list"),
        ({"nc": 3}, {"yaml_key": 1}, "'nc' says 3"),
        ({"val": None}, {"yaml_key": 1}, "'val' is missing"),
        ({"val": [3]}, {"yaml_key": 1}, "holds 3"),
        ({"train": "images/nowhere"}, {"path_missing": 1, "no_images": 1}, "not there"),
        ({"names": ["one", "two", "three"]}, {"class_unused": 1}, "1 of 3 classes: three"),
        ({"val": "images/train"}, {"split_overlap": 2}, "in 'train' and in 'val'"),
    ],
)
def test_a_wrong_yaml_is_found(tmp_path: Path, keys: dict[str, Any], expected: dict[str, int], message: str) -> None:
    health = run_check(yolo_set(tmp_path, **keys))
    assert kinds(health) == expected
    assert message in health.kinds[0].examples[0].message


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"kpt_shape": [2, 3], "flip_idx": [0, 0]}, "flip_idx"),
        ({"kpt_shape": [2, 3], "flip_idx": [0, 1, 2]}, "flip_idx"),
        ({"kpt_shape": [2, 3], "flip_idx": "left"}, "flip_idx"),
        ({"kpt_shape": [2, 3]}, "flip_idx_missing"),
        ({"kpt_shape": [2, 4], "flip_idx": [1, 0]}, "kpt_shape"),
        ({"kpt_shape": 2}, "kpt_shape"),
    ],
)
def test_wrong_keypoint_keys_are_found(tmp_path: Path, keys: dict[str, Any], kind: str) -> None:
    assert kind in kinds(run_check(yolo_set(tmp_path, **keys)))


def test_a_mirror_that_does_not_lead_back(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, kpt_shape=[3, 3], flip_idx=[1, 2, 0])
    for label in tmp_path.glob("labels/*/*.txt"):
        label.write_text(POSE.strip() + " 0.5 0.5 2\n")
    assert kinds(run_check(data)) == {"flip_idx_pairs": 1}


@pytest.mark.parametrize(
    "text", ["train: [", "- a\n- b", "a: b: c", "", "\x00", "&a [*a]", "x: !!python/object:os.system 1"]
)
def test_a_yaml_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    data = tmp_path / "data.yaml"
    data.write_text(text)
    health = run_check(data)
    assert kinds(health) == {"yaml_syntax": 1}
    assert example(health, "yaml_syntax").file == str(data)


def test_the_line_of_a_yaml_mistake(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: a\nval: [b\nnames: c")
    assert "line 3" in example(run_check(tmp_path / "data.yaml"), "yaml_syntax").message


def test_last_batch_and_backgrounds(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"c": "", "d": "", "e": ""})
    assert kinds(run_check(data, batch=4)) == {"backgrounds": 1, "last_batch": 1}
    assert "5 images in batches of 4 leave one" in example(run_check(data, batch=4), "last_batch").message
    assert kinds(run_check(data, batch=5)) == {"backgrounds": 1}
    for label in tmp_path.glob("labels/train/*.txt"):
        label.unlink()
    assert kinds(run_check(data)) == {"no_labels": 1}


def test_labels_without_an_image_and_images_that_share_one(tmp_path: Path) -> None:
    data = yolo_set(tmp_path)
    (tmp_path / "labels" / "train" / "lost.txt").write_text(GOOD)
    picture(tmp_path / "images" / "train" / "a.png")
    health = run_check(data)
    assert kinds(health) == {"label_orphan": 1, "label_shared": 1}
    assert example(health, "label_orphan").file.endswith("lost.txt")


def test_a_link_that_leads_back_up(tmp_path: Path) -> None:
    data = yolo_set(tmp_path)
    (tmp_path / "images" / "train" / "again").symlink_to("..", target_is_directory=True)
    health = run_check(data)
    assert "path_loop" in kinds(health)
    assert health.splits["train"].images < 10


def test_a_list_of_images(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, train="train.txt")
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\n./images/train/nowhere.jpg\nnotes.md\n")
    health = run_check(data)
    assert kinds(health) == {"image_missing": 1}
    assert health.splits["train"].images == 2


def test_folders(tmp_path: Path) -> None:
    data = yolo_set(tmp_path)
    assert run_check(tmp_path).format == "yolo"
    data.unlink()
    health = run_check(tmp_path)
    assert (health.format, health.classes, set(health.splits)) == ("folder", None, {"train", "val"})
    assert kinds(health) == {}
    flat = tmp_path / "flat"
    picture(flat / "a.jpg")
    (flat / "a.txt").write_text(POSE)
    assert run_check(flat).keypoints == [2, 3]
    (flat / "one.yaml").write_text("")
    (flat / "two.yaml").write_text("")
    with pytest.raises(CheckError, match="name one of them"):
        run_check(flat)


def test_what_ultralytics_made_of_a_yaml(tmp_path: Path) -> None:
    content = yaml.safe_load(yolo_set(tmp_path).read_text())
    content = {
        **content,
        "path": tmp_path,
        "train": str(tmp_path / "images/train"),
        "val": str(tmp_path / "images/val"),
    }
    health = run_check({**content, "yaml_file": str(tmp_path / "data.yaml"), "nc": 2, "channels": 3})
    assert kinds(health) == {}
    assert health.data == str(tmp_path / "data.yaml")


@pytest.mark.parametrize("name", ["nowhere.yaml", "", "\0", "x" * 5000])
def test_data_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckError):
        run_check(str(tmp_path / name) if name else "nowhere")


def test_numbers_out_of_range(tmp_path: Path) -> None:
    for keys in ({"imgsz": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match="imgsz >= 1"):
            run_check(tmp_path, **keys)


def test_the_result_is_saved_and_loaded(tmp_path: Path) -> None:
    health = run_check(yolo_set(tmp_path, {"bad": "0 nan 0 0 0"}))
    health.save(tmp_path / "health.json")
    assert Health.load(tmp_path / "health.json") == health
    (tmp_path / "health.json").write_text('{"schema_version": 2}')
    with pytest.raises(CheckError, match="not a check"):
        Health.load(tmp_path / "health.json")
    assert health.warning.startswith("data: 1 error (1 label_nonfinite) in 4 images")
    assert "bad.txt:1: column 2 is nan" in health.warning


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run_check(yolo_set(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)


def test_every_kind_says_what_it_does() -> None:
    assert all(kind.meaning and kind.meaning[0] != " " for kind in KINDS.values())
