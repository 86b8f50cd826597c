"""The recent past: what is an outlier, what a suspicion, and what neither."""

from __future__ import annotations

import json
import math
import random

import pytest

from yolo_gradsafe.judge.loss_trend import LossTrend, LossTrendMonitor, far_above


def settled(level: float = 10.0, steps: int = 60, noise: float = 0.2) -> LossTrendMonitor:
    trend, draw = LossTrendMonitor(), random.Random(0)
    for _ in range(steps):
        trend.observe(level * math.exp(draw.gauss(0, noise)), 100 * math.exp(draw.gauss(0, 0.5)))
    return trend


def test_a_healthy_course_raises_nothing():
    trend, draw = LossTrendMonitor(), random.Random(1)
    for step in range(500):
        level = 30 * math.exp(-step / 100) + 3
        look = trend.observe(level * math.exp(draw.gauss(0, 0.3)), 50 * math.exp(draw.gauss(0, 0.7)))
        assert look is not LossTrend.SUSPECT, step
        assert look is not LossTrend.COLLAPSED, step


@pytest.mark.parametrize(("times", "steps"), [(20.0, 2), (6.0, 5), (3.5, 12)])
def test_a_lasting_rise_is_suspected_the_sooner_the_higher_it_is(times, steps):
    trend = settled(noise=0.0)
    looks = [trend.observe(10 * times, 100) is LossTrend.SUSPECT for _ in range(steps)]
    assert looks == [False] * (steps - 1) + [True]


def test_a_single_outlier_is_a_spike_and_no_suspicion():
    trend = settled()
    look = trend.observe(1e30, 100)
    assert look is LossTrend.SPIKE
    assert trend.observe(10, 100) is LossTrend.USUAL


def test_a_norm_far_out_of_its_range_is_a_spike():
    trend = settled()
    assert trend.observe(10, 1e6) is LossTrend.SPIKE
    assert trend.observe(10, 300) is LossTrend.USUAL


def test_the_first_steps_have_no_range_of_norms():
    trend = LossTrendMonitor()
    assert not any(trend.observe(10, norm) is LossTrend.SPIKE for norm in (1, 1e5, 3, 1e6))


def test_a_fall_to_nothing_of_loss_and_norm_is_a_collapse():
    trend = settled()
    looks = [trend.observe(0.0, 1e-7) is LossTrend.COLLAPSED for _ in range(5)]
    assert looks == [False] * 4 + [True]


def test_a_loss_that_falls_alone_is_none():
    trend = settled()
    assert not any(trend.observe(1e-4, 100) is LossTrend.COLLAPSED for _ in range(20))


def test_a_level_that_is_accepted_is_suspected_no_more():
    trend = settled(noise=0.0)
    assert any(trend.observe(60, 100) is LossTrend.SUSPECT for _ in range(50))
    trend.accept_level(60)
    assert not any(trend.observe(60, 100) is LossTrend.SUSPECT for _ in range(50))
    assert trend.usual == pytest.approx(60)


def test_the_usual_loss_is_not_moved_by_outliers():
    trend = settled(noise=0.0)
    for _ in range(3):
        trend.observe(1e6, 100)
    assert trend.usual == pytest.approx(10)


def test_losses_that_are_not_positive_are_passed_over():
    trend = settled(noise=0.0)
    assert not any(trend.observe(-5.0, 100) is LossTrend.SUSPECT for _ in range(30))
    assert trend.usual == pytest.approx(10)


def test_it_goes_on_from_its_state():
    trend, other = settled(), LossTrendMonitor()
    trend.observe(100, 100)
    other.load_state_dict(json.loads(json.dumps(trend.state_dict())))
    assert trend.observe(120, 5000) == other.observe(120, 5000)
    assert other.sum == trend.sum


@pytest.mark.parametrize(("loss", "usual", "far"), [
    (31.0, 10.0, True),
    (29.0, 10.0, False),
    (-10.0, -10.0, False),  # a likelihood may be negative
    (-20.0, -10.0, False),
    (11.0, -10.0, True),
    (10.0, math.nan, False),
    (math.inf, 10.0, True),
])  # fmt: skip
def test_a_loss_is_far_above_its_usual_also_where_that_is_negative(loss, usual, far):
    assert far_above(loss, usual) is far


def test_the_usual_range_is_looked_at_once_in_ten_norms_however_long_the_training(monkeypatch):
    looks = []
    monkeypatch.setattr(LossTrendMonitor, "_refresh", lambda self: (looks.append(1), setattr(self, "_new_norms", 0)))
    settled(steps=500)
    assert len(looks) == 49, "from the twentieth on"
