"""The factor on the learning rate."""

from __future__ import annotations

import json
import math

import pytest

from yolo_gradsafe.judge.movement import SUITABLE_PRETRAINED
from yolo_gradsafe.recovery.learning_rate import BLAMELESS, LearningRate, hold_steps


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


@pytest.mark.parametrize(("planned", "held"), [(100_000, 100), (300, 100), (96, 32), (12, 10), (0, 100)])
def test_a_short_training_waits_for_a_third_of_its_steps(planned, held):
    assert hold_steps(100, planned) == held
    assert hold_steps(5, planned) == 5, "never longer than asked for"


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
    rate, pretrained = LearningRate(0.1, 10), LearningRate(0.1, 10, SUITABLE_PRETRAINED)
    assert (rate.bearable(1.0), pretrained.bearable(1.0)) == (0.015, 0.005)
    assert rate.bearable(0.03) > BLAMELESS > pretrained.bearable(0.03), "what is trained bears less"
    assert rate.bearable(0.0) == 1.0, "not known"


def test_a_limit_is_what_moves_the_weights_as_it_should_at_the_peak_of_the_schedule():
    rate = LearningRate(backoff=0.1, hold=10)
    rate.limit(0.3 / 0.1)
    assert rate.factor == pytest.approx(0.015 / 3)
    rate.limit(0.06 / 0.1)
    assert rate.factor == pytest.approx(0.015 / 3), "never up"


def test_a_limit_grows_as_far_as_it_holds_until_the_schedule_falls():
    rate = LearningRate(backoff=0.1, hold=1000)
    rate.limit(0.3 / 0.1)
    for share in (0.1, 0.2, 0.3):
        rate.count_safe_step(0.001 / 0.005, share)
    assert rate.factor == pytest.approx(0.005 * 1.1**3)
    rate.count_safe_step(0.030 / 0.006, 1.0)
    held = rate.factor
    assert held == pytest.approx(0.005 * 1.1**3), "this is as much as they bear, twice what they began with"
    rate.count_safe_step(1e-5 / 0.005, 0.6)
    rate.count_safe_step(1e-5 / 0.005, 0.6)
    assert rate.factor == held, "the schedule falls"
    rate.count_safe_step(math.nan, 1.0)
    assert rate.factor == held, "nothing is known"


def test_a_limit_grows_by_what_a_step_comes_to_now_and_not_at_the_peak():
    rate = LearningRate(backoff=0.1, hold=1000)
    rate.limit(0.3 / 0.1)
    rate.count_safe_step(0.1 / 0.005, 0.1)
    assert rate.factor == pytest.approx(0.005 * 1.1), "0.1 at the peak, 0.01 here"


def test_a_limit_of_weights_that_were_trained_before_grows_to_what_suits_them_alone():
    rate = LearningRate(0.1, 1000, SUITABLE_PRETRAINED)
    rate.limit(0.1 / 0.1)
    rate.count_safe_step(0.005 / 0.0051, 1.0)
    assert rate.factor == pytest.approx(0.0051)


def test_which_steps_move_the_weights_further_than_any_should():
    rate = LearningRate(backoff=0.1, hold=10)
    assert [rate.moves_too_far(ratio) for ratio in (0.0, 0.03, 0.031, math.nan)] == [False, False, True, False]


def test_a_limit_that_is_not_needed_any_more_is_gone():
    rate = LearningRate(backoff=0.1, hold=1000)
    rate.limit(0.06 / 1.0)
    told = [rate.count_safe_step(1e-4 / 0.25) for _ in range(40)]
    assert rate.factor == 1.0
    assert told.count(True) == 1


def test_the_smaller_of_backoff_and_limit_holds():
    rate = LearningRate(backoff=0.1, hold=10)
    rate.lower()
    rate.limit(0.03 / 1.0)
    assert rate.factor == pytest.approx(0.1)
    rate.limit(0.3 / 1.0)
    assert rate.factor == pytest.approx(0.05)


def test_what_is_allowed_stays_where_the_user_changes_the_rate():
    rate = LearningRate(backoff=0.1, hold=1000)
    rate.follow(0.3)
    rate.limit(0.3 / 1.0)
    rate.follow(0.09)
    assert rate.factor * 0.09 == pytest.approx(0.05 * 0.3)
    rate.follow(0.0)
    assert rate.factor * 0.09 == pytest.approx(0.05 * 0.3), "not known"
    rate.follow(0.3)
    assert rate.factor == pytest.approx(0.05)
    rate.follow(0.01)
    assert rate.factor == 1.0, "never above what the user wants"


def test_what_did_harm_is_not_gone_back_to_when_the_user_does():
    """As warm restarts do: down to a hundredth, and back."""
    rate = LearningRate(backoff=0.1, hold=5)
    rate.follow(0.1)
    rate.lower()
    rate.lower()
    assert rate.factor == pytest.approx(0.01)
    rate.follow(0.001)
    assert rate.factor == 1.0, "what the user wants is no more than what is allowed"
    healthy(rate, 1000)
    rate.follow(0.1)
    assert rate.factor == pytest.approx(0.01), "what the user wanted says nothing of what lies above it"
    healthy(rate, 1000)
    assert rate.factor == pytest.approx(0.03), "0.3 of the rate that has diverged a second time"


def test_a_higher_rate_of_the_users_is_lowered_to_what_is_allowed():
    rate = LearningRate(backoff=0.1, hold=1000)
    rate.follow(0.1)
    rate.limit(0.15)
    rate.follow(0.4)
    assert rate.factor * 0.4 == pytest.approx(0.1 * 0.1)
    rate.limit(0.15)
    assert rate.factor * 0.4 == pytest.approx(0.1 * 0.1), "a step at 0.4 would come to 0.15: this rate is half of that"


def test_a_limit_grows_to_what_the_user_wants_and_no_further():
    rate = LearningRate(backoff=0.1, hold=1000)
    rate.follow(0.1)
    rate.limit(0.15)
    rate.follow(0.02)
    told = [rate.count_safe_step(0.001) for _ in range(30)]
    assert (rate.factor, told.count(True)) == (1.0, 1)
    rate.follow(0.1)
    assert rate.factor == pytest.approx(0.2)


def test_a_backoff_grows_to_what_the_user_wants_and_no_further():
    rate = LearningRate(backoff=0.1, hold=5)
    rate.follow(0.1)
    rate.lower()
    rate.follow(0.05)
    assert (healthy(rate, 1000).count(True), rate.factor) == (1, 1.0)
    rate.follow(0.1)
    assert rate.factor == pytest.approx(0.5)


@pytest.mark.parametrize("peak", [0.1, 0.05])
def test_what_a_step_at_a_lower_peak_says_is_kept_as_a_rate(peak):
    rate = LearningRate(backoff=0.1, hold=5)
    rate.follow(0.1)
    rate.follow(peak)
    rate.limit(0.15 * peak / 0.1)
    assert rate.factor * peak == pytest.approx(0.01)
    rate.lower(bearable=0.02)
    rate.follow(0.1)
    assert rate.factor == pytest.approx(0.01)


def test_a_rate_that_was_not_lowered_follows_the_user():
    rate = LearningRate(backoff=0.1, hold=1000)
    for peak in (0.3, 0.01, 3.0):
        rate.follow(peak)
        assert rate.factor == 1.0


def test_a_backoff_keeps_what_it_allows_as_well():
    rate = LearningRate(backoff=0.1, hold=1000)
    rate.follow(0.3)
    rate.lower()
    rate.follow(0.15)
    assert rate.factor == pytest.approx(0.2)


def test_it_goes_on_from_its_state():
    rate, other = LearningRate(0.1, 5), LearningRate(0.1, 5)
    rate.follow(0.1)
    rate.follow(0.05)
    rate.lower()
    rate.limit(0.3 / 1.0)
    healthy(rate, 4)
    other.load_state_dict(json.loads(json.dumps(rate.state_dict())))
    assert healthy(rate, 30) == healthy(other, 30)
    assert rate.factor == other.factor
    for one in (rate, other):
        one.follow(0.1)
    assert rate.factor == other.factor


def test_it_goes_on_from_a_state_of_an_earlier_version():
    rate, other = LearningRate(0.1, 5), LearningRate(0.1, 5)
    rate.follow(0.1)
    rate.limit(0.3)
    old = rate.state_dict()
    del old["highest"]
    other.load_state_dict(old)
    other.follow(0.05)
    assert other.factor == pytest.approx(0.1)
