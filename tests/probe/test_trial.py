"""Short trainings side by side: who was better, how long they are, and that both arms see the same batches."""

from __future__ import annotations

import math

import pytest

from tests.probe.toys import Quadratic
from yolo_gradsafe.probe.trial import Plan, compare, make_plan, schedule, tells_of_higher_rates, train_arm

NAN = math.nan


@pytest.mark.parametrize(
    ("base", "candidate", "verdict"),
    [
        ([10.0, 10.2], [8.0, 8.1], "better"),
        ([10.0, 10.2], [12.0, 12.1], "worse"),
        ([10.0, 10.2], [9.9, 10.1], "same"),
        ([10.0, 12.0], [9.0, 11.0], "same"),  # better with each seed, but seeds differ by more
        ([10.0, 10.0], [9.95, 9.95], "same"),  # seeds that agree by chance: 1 % is the least
        ([10.0, 10.2], [5.0, NAN], "worse"),  # died once
        ([10.0, NAN], [9.9, 10.1], "better"),
        ([10.0, math.inf], [NAN, NAN], "both_died"),
    ],
)
def test_what_is_better(base, candidate, verdict):
    assert compare(base, candidate).verdict == verdict


def test_the_spread_is_the_largest_between_seeds():
    found = compare([10.0, 10.2], [8.0, 8.5])
    assert (found.base, found.candidate, found.spread) == pytest.approx((10.1, 8.25, 0.5))


def test_what_died_has_no_mean():
    found = compare([10.0, 10.2], [8.0, NAN])
    assert (found.base, found.candidate, found.spread) == (pytest.approx(10.1), None, None)


def test_a_plan_fits_the_time():
    plan = make_plan(80.0, 0.2, batch=16, accumulate=1, arms=3)
    assert plan is not None
    looks = 5 * 2 / 3
    assert 70 <= 2 * 3 * (plan.steps * plan.batches + looks) * 0.2 <= 80


def test_accumulation_is_kept_where_there_is_time():
    long = make_plan(600.0, 0.2, batch=16, accumulate=4, arms=2)
    short = make_plan(60.0, 0.2, batch=16, accumulate=4, arms=3)
    assert (long.batches, short.batches) == (4, 1)
    assert make_plan(1e6, 0.2, batch=16, accumulate=4, arms=2).steps == 100, "no longer than it needs to be"
    assert make_plan(5.0, 0.2, batch=16, accumulate=4, arms=3) is None


def test_a_short_trial_says_nothing_of_higher_rates_in_a_long_training():
    assert tells_of_higher_rates(Plan(30, 1), planned_steps=100)
    assert not tells_of_higher_rates(Plan(30, 1), planned_steps=5000)


def test_the_rate_rises_and_falls():
    shares = [schedule(i, 50) for i in range(50)]
    assert max(shares) == 1.0
    assert shares.index(1.0) == 9
    assert shares[0] == pytest.approx(0.1)
    assert shares[-1] < 0.15


def test_an_arm_trains_once_a_seed_and_is_looked_at():
    ticks: list[int] = []
    arm, steps = train_arm(Quadratic(5.0), 0.05, 10.0, Plan(steps=10, batches=3), 7, lambda: ticks.append(1))
    assert [course.seed for course in arm.courses] == [7, 8]
    assert [len(course.held_out) for course in arm.courses] == [5, 5]
    assert len(steps) == 10
    assert len(ticks) == 2 * 10 * 3
    assert arm.final[0] < 0.1, "it has learned"


class Breaks(Quadratic):
    """Its loss is NaN once the weight is below a half."""

    def forward(self):
        loss, images = super().forward()
        return loss + (NAN if float(self.weight) < 0.5 else 0.0), images


def test_an_arm_that_dies_ends_there():
    ticks: list[int] = []
    plan = Plan(steps=10, batches=1)
    arm, steps = train_arm(Breaks(5.0), 0.05, 10.0, plan, 0, lambda: ticks.append(1))
    assert len(steps) < 10
    assert len(ticks) == 20
    assert not any(map(math.isfinite, arm.final))
    assert math.isfinite(float(arm.courses[0].held_out[0]))
