"""The check at the start of a training: bounded, once for the same data, and quiet where all is well."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.data.sets import GOOD, coco_set, kinds, picture, yolo_set
from yolo_gradsafe.data import CheckError, quick, quick_check


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_the_second_time_it_is_read_back(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = yolo_set(tmp_path / "set", {"bad": "0 nan 0 0 0"})
    first = quick_check(data, task="detect", cache=cache)
    assert first is not None
    assert kinds(first) == {"label_nonfinite": 1}
    assert "bad.txt:1" in first.warning
    with monkeypatch.context() as patch:
        patch.setattr(quick, "check_source", None)
        assert quick_check(data, task="detect", cache=cache) == first
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("what", ["label", "new", "image", "yaml", "imgsz", "task"])
def test_whatever_changes_is_checked_again(tmp_path: Path, cache: Path, what: str) -> None:
    data = yolo_set(tmp_path / "set")
    keys: dict[str, object] = {"task": "detect"}
    assert kinds(quick_check(data, cache=cache, **keys)) == {}
    if what == "label":
        label = tmp_path / "set" / "labels" / "train" / "a.txt"
        label.write_text(label.read_text().replace("0.5", "9.5"))
    elif what == "new":
        picture(tmp_path / "set" / "images" / "train" / "new.jpg")
    elif what == "image":
        (tmp_path / "set" / "images" / "train" / "a.jpg").write_bytes(b"")
    elif what == "yaml":
        data.write_text(data.read_text().replace("two", "three"))
    else:
        keys |= {"imgsz": 32} if what == "imgsz" else {"task": "segment"}
    quick_check(data, cache=cache, **keys)
    assert len(list(cache.iterdir())) == 2


def test_its_time_is_bounded(tmp_path: Path, cache: Path) -> None:
    data = yolo_set(tmp_path / "set", {"bad": "0 nan 0 0 0"})
    health = quick_check(data, seconds=0, cache=cache)
    assert health is not None
    assert not health.complete
    assert (kinds(health), health.warning) == ({}, "")
    assert "not all were reached" in health.headline


def test_a_sample_of_the_images_is_read(tmp_path: Path, cache: Path) -> None:
    data = yolo_set(tmp_path / "set")
    images, labels = tmp_path / "set" / "images" / "train", tmp_path / "set" / "labels" / "train"
    for k in range(200):
        os.link(images / "a.jpg", images / f"{k:03}.jpg")
        (labels / f"{k:03}.txt").write_text(GOOD)
    health = quick_check(data, cache=cache)
    assert health is not None
    assert 40 <= health.images_read <= 64
    assert health.splits["train"].objects == 204


def test_it_takes_what_ultralytics_made_of_a_yaml(tmp_path: Path, cache: Path) -> None:
    content = yaml.safe_load(yolo_set(tmp_path / "set").read_text())
    health = quick_check({**content, "path": Path(content["path"])}, task="detect", cache=cache)
    assert health is not None
    assert kinds(health) == {}


def test_tasks_without_labels_data_that_are_not_there_and_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    assert quick_check("nowhere", task="classify") is None
    with pytest.raises(CheckError):
        quick_check(tmp_path / "nowhere", task="detect")
    cache = tmp_path / "cache"
    data = coco_set(tmp_path / "set")
    assert quick_check(data, cache=cache) is not None
    stored = next(cache.iterdir())
    stored.write_text("{}")
    assert quick_check(data, cache=cache) is not None, "a result that cannot be read is made anew"
