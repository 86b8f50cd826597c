"""What is tried beside the user's settings, and what of it is kept: on a quadratic that has a best learning rate."""

from __future__ import annotations

import pytest

from tests.probe.toys import Quadratic, result
from yolo_gradsafe.probe.trial import Plan
from yolo_gradsafe.probe.verify import verify

PLAN = Plan(steps=20, batches=1)


class Silent:
    """A progress bar that nobody sees."""

    def __init__(self) -> None:
        self.expected = self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1

    def now(self, what: str) -> None:
        self.what = what

    def expect(self, batches: int) -> None:
        self.expected = batches


def tried(lr0: float, suits: float, plan: Plan | None = PLAN, optimizer: str = "SGD", **setup):
    """Verify a suggested rate on a quadratic of curvature 20, which diverges above 0.1."""
    found = result(optimizer=optimizer, lr0=lr0, **setup)
    lr_range = found.lr_range.model_copy(update={"lr_suggested": suits})
    bar, looks = Silent(), []
    trial, norms = verify(Quadratic(20.0), found.setup, lr_range, lambda _: plan, bar, lambda: looks.append(1))
    return trial, norms, bar, looks


def test_a_better_rate_is_kept():
    trial, norms, bar, looks = tried(lr0=0.0001, suits=0.01)
    assert trial.lr0_against_yours.verdict == "better"
    assert trial.best.lr0 == norms.lr == 0.01
    assert bar.expected == 3 * 2 * 20
    assert looks == [1]


def test_a_worse_rate_is_not():
    trial, norms, _, _ = tried(lr0=0.01, suits=0.0001)
    assert trial.lr0_against_yours.verdict == "worse"
    assert trial.best.lr0 == norms.lr == 0.01


def test_a_rate_close_to_the_users_is_not_tried():
    trial, _, bar, _ = tried(lr0=0.01, suits=0.012)
    assert trial.lr0 is None
    assert trial.best is trial.yours
    assert bar.expected == 2 * 2 * 20


def test_a_higher_rate_is_not_tried_beside_a_long_training():
    assert tried(lr0=0.0001, suits=0.01, steps=5000)[0].lr0 is None
    assert tried(lr0=0.01, suits=0.001, steps=5000)[0].lr0 is not None, "a lower one is"


@pytest.mark.parametrize(("accumulate", "is_tried"), [(1, True), (4, False)])
def test_a_clip_value_is_tried_at_the_users_accumulation_alone(accumulate, is_tried):
    trial, _, _, _ = tried(lr0=0.01, suits=0.01, optimizer="AdamW", accumulate=accumulate)
    assert trial.max_norm is None, "the norms of this quadratic are about 10"
    steep = Quadratic(2000.0)
    setup = result(optimizer="AdamW", lr0=1e-5, accumulate=accumulate).setup
    lr_range = result().lr_range.model_copy(update={"lr_suggested": 1e-5})
    trial, _ = verify(steep, setup, lr_range, lambda _: PLAN, Silent(), lambda: None)
    assert (trial.max_norm is not None) is is_tried


def test_without_time_only_the_norms_are_measured():
    trial, norms, bar, looks = tried(lr0=0.01, suits=0.001, plan=None)
    assert trial is None
    assert len(norms.norm) == 10
    assert bar.ticks == bar.expected == 12
    assert looks == [1]
