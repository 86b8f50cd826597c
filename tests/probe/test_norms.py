"""The distribution of norms is numpy's, and a learning rate that does not hold is seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.probe.toys import Quadratic
from yolo_gradsafe.probe.norms import distribution, holds
from yolo_gradsafe.probe.steps import Step, train_step


def test_quantiles_clip_as_many_steps_as_they_say():
    values = np.random.default_rng(0).lognormal(3, 1, 1000)
    warmup = [Step(1.0, 1e6, 64)] * 250
    found = distribution([*warmup, *(Step(1.0, v, 64) for v in values)], 0.01, 4)
    assert (values > found.p95).mean() == pytest.approx(0.05, abs=0.001)
    assert (values > found.p99).mean() == pytest.approx(0.01, abs=0.001)
    assert found.median == pytest.approx(np.median(values))
    assert found.median_per_image == pytest.approx(np.median(values) / 64)
    assert found.over_stock == pytest.approx((values > 10).mean())
    assert (found.batches, found.images, found.held) == (4, 64, True)


def test_norms_that_are_not_finite_are_left_out():
    found = distribution([Step(1.0, v, 1) for v in (1.0, math.nan, 3.0, math.inf)], 0.01, 1)
    assert (found.median, found.max, found.over_stock) == (2.0, 3.0, 0.5)
    none = distribution([Step(math.nan, math.nan, 1)], 0.01, 1)
    assert (none.median, none.p95, none.held) == (None, None, False)


@pytest.mark.parametrize(
    ("after", "expected"), [([1.0] * 9, True), ([2.0] * 9, False), ([9.0] * 6 + [1.0] * 3, True), ([math.inf], False)]
)
def test_what_holds(after, expected):
    assert holds([1.0] * 8, after) is expected


def test_batches_are_summed_as_stock_sums_them():
    # 3 batches of gradient 5 each; the clip at 10 halves nothing but the excess.
    toy = Quadratic(5.0)
    step = train_step(toy, 0.1, batches=3)
    assert step.norm == pytest.approx(15.0)
    assert float(toy.weight) == pytest.approx(1 - 0.1 * 10, abs=1e-5)
    assert step.images == 3
