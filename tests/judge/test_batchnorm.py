"""Statistics that a healthy step has spoilt."""

from __future__ import annotations

import math

import pytest

from yolo_gradsafe.judge.batchnorm import BatchNormMonitor


def watched() -> BatchNormMonitor:
    statistics = BatchNormMonitor()
    assert not statistics.blown_up(100.0), "the first step has nothing to be compared with"
    statistics.keep()
    return statistics


def test_a_thousandfold_growth_in_one_step_is_blown_up():
    assert not watched().blown_up(99_000.0)
    assert watched().blown_up(101_000.0)


def test_what_was_blown_up_is_no_measure():
    statistics = watched()
    statistics.blown_up(1e14)
    assert statistics.blown_up(1e14)
    assert not statistics.blown_up(120.0)


@pytest.mark.parametrize(("norm", "at_last"), [(1e9, "ok"), (math.inf, "diverging")])
def test_it_is_the_batch_three_times_and_then_the_data_or_the_weights(norm, at_last):
    statistics, verdicts = watched(), []
    for _ in range(4):
        statistics.blown_up(norm)
        verdicts.append(str(statistics.verdict(math.isfinite(norm))))
    assert verdicts == ["poisoned"] * 3 + [at_last]
