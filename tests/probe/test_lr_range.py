"""The range test finds what is planted in a curve, and where a quadratic diverges."""

from __future__ import annotations

import math

import pytest

from tests.probe.toys import Quadratic
from yolo_gradsafe.probe.lr_range import find_divergence, judge_range, measure_range

N = 60
LRS = [1e-5 * 1e5 ** (i / (N - 1)) for i in range(N)]
NO_SIGNAL = [20.0] * N


def bowl(low: float, steep: float = 2.0) -> list[float]:
    """Losses that fall from 10 to 4 around a learning rate, and rise again around one 100 times as high."""
    return [10 - 6 * _gate(steep * math.log10(lr / low)) * _gate(-steep * math.log10(lr / low / 100)) for lr in LRS]


def _gate(x: float) -> float:
    return 1 / (1 + math.exp(-2 * x))


def put(values: list[float], place: int, value: float) -> list[float]:
    return [*values[:place], value, *values[place + 1 :]]


@pytest.mark.parametrize(
    ("losses", "norms", "place", "word"),
    [
        (put(bowl(1e-3), 50, math.nan), NO_SIGNAL, 50, "not finite"),
        (put(bowl(1e-3), 0, math.nan), NO_SIGNAL, 0, "not finite"),
        (bowl(1e-3), put(NO_SIGNAL, 40, math.inf), 40, "gradient"),
        (put(bowl(1e-3), 45, 200.0), NO_SIGNAL, 45, "typical"),
        ([*bowl(1e-3)[:45], *[40.0] * 15], NO_SIGNAL, 45, "lowest"),
        ([10.0] * 40 + [16.0] * 20, NO_SIGNAL, 40, "first"),
        (bowl(1e-3), [20.0] * 40 + [300.0] * 20, 40, "norm"),
    ],
)
def test_planted_breakdowns_are_found(losses, norms, place, word):
    found = find_divergence(losses, norms)
    assert found is not None
    assert abs(found[0] - place) <= 1
    assert word in found[1]
    judged = judge_range(LRS, losses, norms)
    assert judged.lr_diverges == LRS[found[0]]
    assert judged.lr_suggested <= judged.lr_diverges / 10 * 1.0001


@pytest.mark.parametrize("losses", [bowl(1e-3), [10.0] * N, put(bowl(1e-2), 30, 25.0), put([10.0] * N, 20, 60.0)])
def test_healthy_courses_do_not_break(losses):
    assert find_divergence(losses, NO_SIGNAL) is None
    assert judge_range(LRS, losses, NO_SIGNAL).lr_diverges is None


def test_norms_that_start_high_and_settle_are_fine():
    assert find_divergence(bowl(1e-3), [5e5, 2e5, 1e5, *[1e4] * 7, *[300.0] * 40, *[2000.0] * 10]) is None


@pytest.mark.parametrize("low", [1e-3, 1e-2])
def test_the_suggestion_lies_where_the_loss_falls(low):
    found = judge_range(LRS, bowl(low), NO_SIGNAL)
    assert found.lr_steepest == pytest.approx(low, rel=0.5)
    assert low / 10 <= found.lr_suggested <= low * 1.5
    assert found.descent == pytest.approx(0.6, abs=0.05)


def test_no_learning_is_seen_as_such():
    assert judge_range(LRS, [10.0] * N, NO_SIGNAL).descent < 0.03


def test_broken_from_the_first_step():
    found = judge_range(LRS[:1], [math.nan], [math.nan])
    assert found.lr_diverges == LRS[0]
    assert found.smoothed == []


@pytest.mark.parametrize("curvature", [20.0, 50.0, 200.0])
def test_a_quadratic_breaks_down_near_its_limit(curvature):
    ticks = []
    found = measure_range(Quadratic(curvature), N, 0, lambda: ticks.append(1))
    assert len(ticks) == N
    assert found.lr_diverges is not None
    assert 0.5 <= found.lr_diverges / (2 / curvature) <= 10
    assert found.lr_suggested < 2 / curvature
