"""The images to blame, by real losses."""

from __future__ import annotations

import math

import pytest
import torch

from tests.arm import DETECT, POSE
from yolo_gradsafe.adapter.replay import Replay
from yolo_gradsafe.forensics.samples import find_failing, find_outliers, label_fault, pixel_faults
from yolo_gradsafe.forensics.slicing import image_name


def failing(replay):
    """Return whether a batch's loss is not finite; the runs are counted."""

    def fails(batch):
        fails.calls += 1
        return not replay.run(batch).finite

    fails.calls = 0
    return fails


def test_a_bad_pixel_is_told_by_its_image(labs):
    assert pixel_faults(labs(DETECT).with_nan_pixel(3)) == {3: 1}


@pytest.mark.parametrize("row", [0, 7, -1])
def test_a_bad_label_row_is_found_by_halving(labs, row):
    lab = labs(POSE)
    batch = lab.copy()
    batch["keypoints"][row] = float("nan")
    fails = failing(Replay(lab.model))
    image = int(batch["batch_idx"][row])
    assert list(find_failing(fails, batch).found) == [image]
    assert fails.calls <= 5  # three halvings of eight, the image alone, the others
    assert "keypoints" in label_fault(batch, image)


def test_a_healthy_batch_has_none(labs):
    lab = labs(DETECT)
    fails = failing(Replay(lab.model))
    assert not pixel_faults(lab.batch)
    assert not fails(lab.batch)
    assert list(find_failing(fails, lab.batch).found) == []


def test_an_outlier_is_compared_with_its_like():
    batch = {"img": torch.zeros(6, 3, 4, 4), "batch_idx": torch.tensor([0.0, 1, 2, 3]), "cls": torch.zeros(4, 1)}
    batch["img"] += torch.arange(6).view(-1, 1, 1, 1)
    loss_of_image = [
        1.0,
        1.2,
        40.0,
        0.9,
        300.0,
        310.0,
    ]  # the last two have no objects: their losses are of another kind
    found = find_outliers(lambda part: {"total": loss_of_image[int(part["img"][0, 0, 0, 0])]}, batch)
    assert [finding.index for finding in found] == [2]
    assert found[0].detail == "its loss alone is 40 times that of the others"


def test_faults_of_labels_are_told_apart():
    batch = {
        "img": torch.zeros(5, 3, 4, 4),
        "batch_idx": torch.arange(5).float(),
        "cls": torch.tensor([[0.0], [-1.0], [0.0], [0.0], [0.0]]),
        "bboxes": torch.full((5, 4), 0.5),
        "keypoints": torch.full((5, 2, 3), 0.5),
    }
    batch["bboxes"][2, 3] = 0
    batch["keypoints"][3, 1, 0] = 1e6
    batch["bboxes"][4, 0] = float("inf")
    assert label_fault(batch, 0) == ""
    assert label_fault(batch, 1) == "the class of object 1 is -1"
    assert label_fault(batch, 2) == "the box of object 1 is 0.5 wide and 0 high"
    assert label_fault(batch, 3) == "the keypoints of object 1 lie 1e+06 image sizes away"
    assert label_fault(batch, 4) == "the box of object 1 holds NaN or Inf"
    assert label_fault(batch, 2, degenerate=False) == ""
    batch["cls"][0] = 3
    assert label_fault(batch, 0) == label_fault(batch, 0, classes=4) == ""
    assert label_fault(batch, 0, degenerate=False, classes=3) == (
        "the class of object 1 is 3, and the model has 3 classes"
    )
    assert label_fault(batch, 4, degenerate=False)


def test_pixels_are_counted_by_place_not_by_channel():
    images = torch.zeros(3, 3, 4, 4)
    images[1, :, 2, 3] = float("nan")
    images[1, 0, 0, 0] = float("-inf")
    assert pixel_faults({"img": images}) == {1: 2}
    assert pixel_faults({"img": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}) == {}


def test_classification_has_neither_names_nor_objects():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    batch = {"img": torch.rand(5, 3, 4, 4), "cls": torch.tensor([0, 1, 2, 0, 1])}
    batch["img"][4] = 3e38
    weight = model[1].weight.data.fill_(10.0)
    assert weight.isfinite().all()

    def fails(part):
        return not math.isfinite(torch.nn.functional.cross_entropy(model(part["img"]), part["cls"]))

    assert list(find_failing(fails, batch).found) == [4]
    assert image_name(batch, 4) == "image 5 of the batch"
