"""The same picture in two splits is found, as a file and as nearly the same pixels; other pictures are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.sets import GOOD, example, kinds, yolo_set
from yolo_gradsafe.data import draw_detect, run_check


def scene(path: Path, seed: int, quality: int = 95, size: int = 200, moved: int = 0) -> None:
    """Write a picture with large shapes, as photos have them."""
    random = np.random.default_rng(seed)
    pixels = np.full((200, 200, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(12):
        colour = random.integers(0, 256, 3).tolist()
        centre = (int(random.integers(0, 200)) + moved, int(random.integers(0, 200)))
        cv2.circle(pixels, centre, int(random.integers(10, 50)), colour, -1)
    cv2.imwrite(str(path), cv2.resize(pixels, (size, size)), [cv2.IMWRITE_JPEG_QUALITY, quality])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set whose training image x is a scene."""
    path = yolo_set(tmp_path, {"x": GOOD})
    scene(tmp_path / "images" / "train" / "x.jpg", seed=1)
    return path


def validate_on(folder: Path) -> Path:
    (folder / "labels" / "val" / "other name.txt").write_text(GOOD)
    return folder / "images" / "val" / "other name.jpg"


def test_a_copy_under_another_name(tmp_path: Path, data: Path) -> None:
    shutil.copy(tmp_path / "images" / "train" / "x.jpg", validate_on(tmp_path))
    health = run_check(data)
    assert kinds(health) == {"split_copy": 1}
    assert example(health, "split_copy").message == f"in 'val': a copy of {tmp_path}/images/train/x.jpg"
    assert example(health, "split_copy").image.endswith("other name.jpg")


@pytest.mark.parametrize("change", [{"quality": 40}, {"size": 150}, {"moved": 2}])
def test_nearly_the_same_picture(tmp_path: Path, data: Path, change: dict[str, int]) -> None:
    scene(validate_on(tmp_path), seed=1, **change)
    assert kinds(run_check(data)) == {"split_near": 1}


@pytest.mark.parametrize("seed", range(2, 12))
def test_another_picture(tmp_path: Path, data: Path, seed: int) -> None:
    scene(validate_on(tmp_path), seed=seed)
    assert kinds(run_check(data)) == {}


def test_drawn_images_and_images_of_one_colour_are_no_copies(tmp_path: Path, data: Path) -> None:
    assert kinds(run_check(draw_detect(tmp_path / "drawn"))) == {}
    for split, grey in (("train", 100), ("val", 101)):
        cv2.imwrite(str(tmp_path / "images" / split / "flat.png"), np.full((60, 60, 3), grey, np.uint8))
        (tmp_path / "labels" / split / "flat.txt").write_text(GOOD)
    assert kinds(run_check(data)) == {"image_constant": 2}
