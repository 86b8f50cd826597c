"""What a step passes through on its way."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from types import FrameType
from typing import Any

import pytest

from tests.fake_trainer import Core, batch_of, nan_batch

HEALTHY = {
    "Gradients", "Reading", "StepMetrics", "RankFlags", "Signals", "Observation", "Clip", "Outcome", "StepRow",
}  # fmt: skip
"""The records of a healthy step."""


def records_made(act: Callable[[], Any]) -> Counter[str]:
    """Count the dataclasses of the package that are made, by name."""
    made: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "__init__":
            kind = type(frame.f_locals.get("self"))
            if is_dataclass(kind) and kind.__module__.startswith("yolo_gradsafe"):
                made[kind.__name__] += 1

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return made


@pytest.fixture
def core(tmp_path):
    core = Core(tmp_path)
    core.train(3)
    return core


def test_a_healthy_step_passes_through_nine_records(core):
    core.raw.backward(batch_of(4))
    made = records_made(core.raw.optimizer_step)
    assert set(made) == HEALTHY


def test_a_bad_step_adds_what_is_asked_and_found_and_told(core):
    core.raw.backward(nan_batch())
    made = records_made(core.raw.optimizer_step)
    assert {"Surroundings", "Diagnosis", "Situation", "Plan", "Incident"} <= set(made)


def test_per_image_a_last_batch_that_is_smaller_is_clipped_by_its_own_images(tmp_path):
    core = Core(tmp_path, clip={"max_norm": 1e-3, "per_image": True})
    whole = batch_of(1)
    for images in (4, 4, 1):
        core.raw.take({name: values[:images] for name, values in whole.items()})
    assert [float(row["threshold"]) for row in core.rows()] == pytest.approx([4e-3, 4e-3, 1e-3])
