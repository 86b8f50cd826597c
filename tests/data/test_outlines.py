"""Outlines: polygons and masks of COCO JSON, held against pycocotools, and what segment and OBB models get of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from ultralytics.data import YOLODataset
from ultralytics.data import utils as data_utils

from tests.data.sets import annotation, coco_set, coco_values, example, kinds
from yolo_gradsafe.data import PrepareError, prepare, run_check
from yolo_gradsafe.data.read.outlines import decode_mask, extent, rings

SQUARE = [8, 8, 32, 8, 32, 24, 8, 24]
ROW = "0.125 0.166667 0.5 0.166667 0.5 0.5 0.125 0.5"


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def plain(mask: np.ndarray) -> dict[str, Any]:
    runs, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def drawn(outline: list[np.ndarray], shape: tuple[int, int], times: int = 8) -> np.ndarray:
    """Fill rings on a finer grid, and count a pixel that is covered by more than half."""
    fine = np.zeros((shape[0] * times, shape[1] * times), np.uint8)
    for ring in outline:
        cv2.fillPoly(fine, [np.rint(ring * times - 0.5).astype(np.int32)], 1)
    return (cv2.resize(fine.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) > 0.5).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(mask=arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_any_mask_is_decoded_as_pycocotools_does(mask: np.ndarray) -> None:
    for rle in (compressed(mask), plain(mask)):
        assert (decode_mask(rle) == mask).all()
    if mask.any():
        x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist()
        assert extent(compressed(mask)) == [x, y, x + w, y + h]
    else:
        assert extent(compressed(mask)) is None
        assert rings(compressed(mask)) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_is_followed_along_its_edge(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((60, 80), np.uint8)
    for _ in range(3):
        centre = (int(random.integers(10, 70)), int(random.integers(10, 50)))
        cv2.circle(mask, centre, int(random.integers(4, 15)), 1, -1)
    outline = rings(compressed(mask))
    found, told = drawn(outline, mask.shape), mask
    assert (found & told).sum() / (found | told).sum() > 0.98
    x1, y1, x2, y2 = extent(compressed(mask))
    every = np.concatenate(outline)
    assert np.abs([*every.min(0), *every.max(0)] - np.array([x1, y1, x2, y2])).max() <= 0.25


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [4], "counts": [16]},
        {"size": [4, 4], "counts": [15]},
        {"size": [4, 4], "counts": [-1, 17]},
        {"size": [4, 4], "counts": "not a mask"},
        {"size": [4, 4], "counts": "\u00fc"},
        {"size": [0, 4], "counts": []},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": [4, 4], "counts": None},
        {"size": [4.0, 4], "counts": [16]},
    ],
)
def test_what_is_no_mask(rle: dict[str, Any]) -> None:
    assert decode_mask(rle) is None
    assert extent(rle) is None


@pytest.mark.parametrize(
    ("segmentation", "corners"),
    [
        ([SQUARE], 4),
        (SQUARE, 4),
        ([list(map(str, SQUARE))], 4),
        ([[8, 8], [32, 8], [32, 24], [8, 24]], 4),
        ([[[8, 8], [32, 8], [32, 24], [8, 24]]], 4),
        ([SQUARE, [1, 2, 3]], 4),
    ],
)
def test_polygons_in_any_form(segmentation: Any, corners: int) -> None:
    (ring,) = rings(segmentation)
    assert len(ring) == corners
    assert extent([SQUARE]) == [8, 8, 32, 24] == [*ring.min(0), *ring.max(0)]


@pytest.mark.parametrize(
    "segmentation", [None, [], [[]], "x", 3, [[1, 2, 3, 4]], [["a"] * 6], [[float("nan")] * 6], {}]
)
def test_what_is_no_outline(segmentation: Any) -> None:
    assert rings(segmentation) == []


def set_of(folder: Path, *outlines: Any, **values: Any) -> Path:
    entries = [annotation(k, segmentation=outline, **values) for k, outline in enumerate(outlines, 1)]
    path = coco_set(folder)
    path.write_text(json.dumps(coco_values() | {"annotations": entries}))
    return path


def rows(path: Path, task: str, cache: Path) -> list[str]:
    made = prepare(path, task, cache=cache)
    return (made.data.parent / "labels" / "train" / "1.txt").read_text().splitlines()


def test_segment_labels(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[8:24, 8:32] = 1
    beyond = [-8, 8, 72, 8, 72, 24, -8, 24]
    path = set_of(tmp_path, [SQUARE], compressed(mask), [beyond], [SQUARE, [40, 30, 50, 30, 50, 40]], None)
    first, second, third, fourth = rows(path, "segment", tmp_path / "cache")
    assert first == f"0 {ROW}"
    numbers = np.array(list(map(float, second.split()[1:]))).reshape(-1, 2) * (64, 48)
    assert np.abs([*numbers.min(0), *numbers.max(0)] - np.array([8, 8, 32, 24])).max() <= 0.25
    assert third == "0 0 0.166667 1 0.166667 1 0.5 0 0.5", "clipped to the image"
    corners = np.array(list(map(float, fourth.split()[1:]))).reshape(-1, 2) * (64, 48)
    assert np.allclose([*corners.min(0), *corners.max(0)], [8, 8, 50, 40], atol=1e-3), "both parts in one row"
    health = run_check(path, task="segment")
    assert kinds(health) == {"outline_missing": 1, "class_unused": 1, "box_outline": 2, "box_duplicate": 4}
    assert health.annotations.sum == "5 annotations: 4 labels, 1 left out (1 box_duplicate)"


def test_an_object_without_an_outline_gets_that_of_its_box_as_ultralytics_has_it(tmp_path: Path) -> None:
    path = set_of(tmp_path, [[20, 20, 40, 20, 40, 40]], None)
    assert rows(path, "segment", tmp_path / "cache")[1] == f"0 {ROW}"
    assert "outline_missing" in kinds(run_check(path, task="segment"))


def test_obb_labels(tmp_path: Path) -> None:
    diamond = [20, 8, 32, 20, 20, 32, 8, 20]
    around = [20, 8, 26, 14, 32, 20, 20, 32, 8, 20]
    path = set_of(tmp_path, [diamond], [around], None, attributes={"rotation": 90})
    first, second, third = rows(path, "obb", tmp_path / "cache")
    shares = [value / side for value, side in zip(diamond, [64, 48] * 4, strict=True)]
    assert first == " ".join(["0", *(f"{value:.6g}" for value in shares)]), "four corners as they are"
    corners = np.array(list(map(float, second.split()[1:]))).reshape(4, 2) * (64, 48)
    assert sorted(map(tuple, np.rint(corners).tolist())) == sorted([(20, 8), (32, 20), (20, 32), (8, 20)])
    turned = np.array(list(map(float, third.split()[1:]))).reshape(4, 2) * (64, 48)
    assert np.allclose(turned, [[28, 4], [28, 28], [12, 28], [12, 4]], atol=1e-3), "the box about its centre"


def test_a_turned_box_is_told_where_it_counts_as_upright(tmp_path: Path) -> None:
    path = set_of(tmp_path, None, attributes={"rotation": 30.0})
    assert example(run_check(path), "box_rotated").message == "it is turned by 30 degrees"


def test_no_outline_at_all(tmp_path: Path) -> None:
    for task in ("segment", "obb"):
        path = set_of(tmp_path, None, [])
        assert "task_outlines" in kinds(run_check(path, task=task))
        with pytest.raises(PrepareError, match="none of 2 objects has an outline"):
            prepare(path, task, cache=tmp_path / "cache")


@pytest.mark.parametrize("task", ["segment", "obb"])
def test_ultralytics_reads_the_outlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    monkeypatch.setattr(data_utils, "check_font", lambda *_: None)
    made = prepare(set_of(tmp_path, [SQUARE], [[20, 8, 32, 20, 20, 32, 8, 20]]), task, cache=tmp_path / "cache")
    data = data_utils.check_det_dataset(str(made.data))
    dataset = YOLODataset(img_path=data["train"], data=data, task=task, imgsz=64, augment=False)
    label = next(label for label in dataset.labels if len(label["cls"]))
    assert len(label["cls"]) == len(label["segments"]) == 2
    assert np.allclose(label["bboxes"][0], [0.3125, 1 / 3, 0.375, 1 / 3], atol=1e-6)
