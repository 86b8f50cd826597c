"""Faults with a known truth are named as they are: the catalogue of ``benchmarks/truth.py``, the quick ones always."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.planted.catalogue import FAULTS
from benchmarks.planted.scene import Benches, Fault
from benchmarks.planted.trainings import TRAININGS, Training
from benchmarks.truth import look, train

QUICK = ("pixels: ", "labels: class", "labels: sizes", "labels: keypoints", "weights: NaN", "weights: infinite",
         "loss: gain", "loss: weight of a class is infinite, yolov8n",
         "healthy: yolov8n in fp32", "healthy: yolo26n-seg in fp32", "healthy: yolo26n-obb in fp32",
         "healthy: rtdetr-tiny in fp32", "healthy: empty image and box, yolov8n")  # fmt: skip
"""How the names begin of what takes less than a second."""


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Benches:
    return Benches(tmp_path_factory.mktemp("truth"))


def cases() -> list[object]:
    return [
        pytest.param(fault, id=fault.name, marks=() if fault.name.startswith(QUICK) else pytest.mark.slow)
        for fault in FAULTS
    ]


@pytest.mark.parametrize("fault", cases())
def test_a_planted_fault_is_named(fault: Fault, benches: Benches):
    row = look(fault, benches)
    assert row.named == row.truth, row.said


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)
def test_a_fault_within_a_training_is_named(training: Training, tmp_path: Path):
    row = train(training, tmp_path)
    assert row.named == row.truth, row.said


def test_each_fault_has_a_name_of_its_own():
    names = [fault.name for fault in (*FAULTS, *TRAININGS)]
    assert len(set(names)) == len(names) >= 100
