"""The factor on the learning rate."""

from __future__ import annotations

import json

import pytest

from yolo_gradsafe.recovery.learning_rate import BLAMELESS, LearningRate, bearable_factor


def healthy(rate: LearningRate, steps: int) -> list[bool]:
    return [rate.count_safe_step() for _ in range(steps)]


def test_it_is_lowered_held_and_let_back_to_exactly_one():
    rate = LearningRate(backoff=0.1, hold=10)
    rate.lower()
    assert rate.factor == pytest.approx(0.1)
    assert not any(healthy(rate, 10))
    assert rate.factor == pytest.approx(0.1)
    told = healthy(rate, 200)
    assert told.count(True) == 1
    assert rate.factor == 1.0


def test_a_bad_step_starts_the_wait_anew():
    rate = LearningRate(backoff=0.1, hold=10)
    rate.lower()
    healthy(rate, 9)
    rate.restart_hold()
    healthy(rate, 10)
    assert rate.factor == pytest.approx(0.1)


def test_a_rate_that_diverges_twice_is_not_gone_back_to():
    rate = LearningRate(backoff=0.1, hold=1)
    rate.lower()
    healthy(rate, 60)
    diverged_again_at = rate.factor
    assert 0.1 < diverged_again_at < 1
    rate.lower()
    healthy(rate, 10_000)
    assert rate.factor == pytest.approx(0.3 * diverged_again_at)


def test_the_movement_of_the_weights_says_how_far_down():
    rate = LearningRate(backoff=0.1, hold=10)
    rate.lower(bearable=0.002)
    assert rate.factor == 0.002


def test_it_has_a_floor():
    rate = LearningRate(backoff=0.1, hold=10)
    for _ in range(50):
        rate.lower()
    assert rate.factor == 1e-4


def test_the_bearable_factor():
    # Ten steps at a rate of 1 moved the weights to ten times their size: a fiftieth of that a step is bearable.
    assert bearable_factor(drift=10.0, lr_sum=10.0, lr=1.0) == pytest.approx(0.02)
    assert bearable_factor(drift=0.1, lr_sum=0.02, lr=0.001) > BLAMELESS, "a rate that moves them by 0.5 % a step"
    assert bearable_factor(drift=0.0, lr_sum=0.0, lr=0.1) == 1.0


def test_it_goes_on_from_its_state():
    rate, other = LearningRate(0.1, 5), LearningRate(0.1, 5)
    rate.lower()
    healthy(rate, 4)
    other.load_state_dict(json.loads(json.dumps(rate.state_dict())))
    assert healthy(rate, 30) == healthy(other, 30)
    assert rate.factor == other.factor
