"""The range test finds what is planted in a curve, and where a quadratic diverges."""

from __future__ import annotations

import math

import pytest

from tests.probe.toys import Quadratic
from yolo_gradsafe.probe.lr_range import find_divergence, find_edge, judge_range, measure_range, rate_that_moves

N = 60
LRS = [1e-5 * 1e5 ** (i / (N - 1)) for i in range(N)]
NO_SIGNAL = [20.0] * N
UNKNOWN = [math.nan] * N


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
    judged = judge_range(LRS, losses, norms, UNKNOWN)
    assert judged.lr_diverges == LRS[found[0]]
    assert judged.lr_suggested <= judged.lr_diverges / 10 * 1.0001


@pytest.mark.parametrize("losses", [bowl(1e-3), [10.0] * N, put(bowl(1e-2), 30, 25.0), put([10.0] * N, 20, 60.0)])
def test_healthy_courses_do_not_break(losses):
    assert find_divergence(losses, NO_SIGNAL) is None
    assert judge_range(LRS, losses, NO_SIGNAL, UNKNOWN).lr_diverges is None


def test_norms_that_start_high_and_settle_are_fine():
    assert find_divergence(bowl(1e-3), [5e5, 2e5, 1e5, *[1e4] * 7, *[300.0] * 40, *[2000.0] * 10]) is None


@pytest.mark.parametrize("low", [1e-3, 1e-2])
def test_the_suggestion_lies_where_the_loss_falls(low):
    found = judge_range(LRS, bowl(low), NO_SIGNAL, UNKNOWN)
    assert low / 10 <= found.lr_suggested <= low * 1.5


def test_broken_from_the_first_step():
    found = judge_range(LRS[:1], [math.nan], [math.nan], [math.nan])
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


def test_steps_that_move_the_weights_too_far_are_the_edge():
    # As measured with AdamW: a step moves the weights by 4 to 5 times the rate, the first ones by 17 times.
    moved = [(17.0 if i < 5 else 4.8) * lr for i, lr in enumerate(LRS)]
    found = judge_range(LRS, bowl(1e-2), NO_SIGNAL, moved)
    assert found.lr_diverges == pytest.approx(0.04 / 4.8, rel=0.25)
    assert found.diverges_by == "steps move the weights by over 4 %"
    assert found.lr_suggested == pytest.approx(0.0028, rel=0.25)


def test_one_step_that_moves_far_is_no_edge():
    assert find_edge([5.0] * N, NO_SIGNAL, put([0.01] * N, 30, 0.2)) is None
    assert find_edge([5.0] * N, NO_SIGNAL, [0.2] * 5 + [0.01] * (N - 5)) is None, "the optimizer's first steps"


def test_the_loss_counts_where_it_runs_away_first():
    losses, moved = put([5.0] * N, 20, math.nan), [0.01] * 30 + [0.1] * 30
    assert find_edge(losses, NO_SIGNAL, moved) == (20, "the loss is not finite")
    assert find_edge([5.0] * N, NO_SIGNAL, moved) == (30, "steps move the weights by over 4 %")


def test_what_suits_stays_below_a_loss_that_runs_away():
    losses, moved = put([5.0] * N, 20, math.nan), [0.001] * N
    assert judge_range(LRS, losses, NO_SIGNAL, moved).lr_suggested == pytest.approx(LRS[20] / 3)


def test_weights_that_hardly_move_bear_the_highest_rate():
    assert rate_that_moves(0.015, LRS, [0.001] * N) == LRS[-1]
