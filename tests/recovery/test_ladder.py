"""Which rung a bad step calls for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from yolo_gradsafe.recovery.ladder import COOL_DOWN, Plan, Situation, plan
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.telemetry.schema import Cause, Verdict

OPTIONS = RecoveryOptions()
BAD = Situation(Verdict.BAD_BATCH)
POISONED = Situation(Verdict.POISONED)
DIVERGING = Situation(Verdict.DIVERGING)


@pytest.mark.parametrize(
    "cause", [Cause.IMAGE, Cause.LOSS, Cause.PREPROCESSING, Cause.ACTIVATIONS, Cause.TRANSIENT, Cause.UNKNOWN]
)
def test_a_bad_batch_costs_its_step_and_nothing_else(cause):
    assert plan(replace(BAD, cause=cause), OPTIONS) == Plan()


def test_a_fault_of_the_precision_counts_against_it():
    assert plan(replace(BAD, cause=Cause.PRECISION), OPTIONS) == Plan(raise_precision=True)


def test_weights_that_have_gone_bad_are_rolled_back_and_the_rate_is_left_at_first():
    assert plan(replace(BAD, cause=Cause.WEIGHTS), OPTIONS) == Plan(rollback=True)


def test_the_rate_is_lowered_when_losses_rose_before_or_going_back_did_not_hold():
    bad = replace(BAD, cause=Cause.WEIGHTS)
    assert plan(replace(bad, rising=True), OPTIONS).lower_lr
    soon, late = (replace(bad, since_rollback=steps) for steps in (COOL_DOWN - 1, COOL_DOWN))
    assert (plan(soon, OPTIONS).lower_lr, plan(soon, OPTIONS).repeated) == (True, True)
    assert not plan(late, OPTIONS).lower_lr


def test_divergence_is_rolled_back_with_a_lower_rate():
    assert plan(DIVERGING, OPTIONS) == Plan(rollback=True, lower_lr=True)


def test_a_step_that_replaced_the_weights_is_taken_back_and_the_rate_is_limited_to_what_they_bear():
    for since in (None, 3):
        back = plan(Situation(Verdict.DIVERGING, Cause.LEARNING_RATE, since_rollback=since), OPTIONS)
        assert back == Plan(rollback=True, limit_lr=True)


def test_poison_is_healed_in_place_and_rolled_back_when_that_does_not_hold():
    assert plan(POISONED, OPTIONS) == Plan(repair=True)
    assert plan(replace(POISONED, repaired=2), OPTIONS) == Plan(repair=True)
    assert plan(replace(POISONED, repaired=3), OPTIONS).rollback


def test_without_a_snapshot_nothing_is_rolled_back():
    assert not plan(replace(DIVERGING, snapshot=False), OPTIONS).rollback
    assert plan(replace(DIVERGING, snapshot=False), OPTIONS).lower_lr


def test_training_ends_when_the_budgets_are_spent():
    assert plan(replace(BAD, skipped=OPTIONS.max_skips), OPTIONS).stop == ""
    skipped = plan(replace(BAD, skipped=OPTIONS.max_skips + 1), OPTIONS)
    assert (skipped.stop, skipped.count) == ("max_skips", 501)
    spent = plan(replace(DIVERGING, rollbacks=OPTIONS.max_rollbacks), OPTIONS)
    assert (spent.stop, spent.count) == ("max_rollbacks", 20)
    assert spent.rollback, "it ends with a model that works"


NEVER_GOOD = replace(BAD, cause=Cause.LOSS, never_good=True, skipped=OPTIONS.hopeless_after)


def test_a_training_whose_every_batch_fails_from_the_first_step_on_ends_early():
    assert plan(NEVER_GOOD, OPTIONS) == Plan(stop="hopeless_after", count=OPTIONS.hopeless_after)
    assert not plan(replace(NEVER_GOOD, skipped=OPTIONS.hopeless_after - 1), OPTIONS).stop
    assert not plan(replace(NEVER_GOOD, never_good=False), OPTIONS).stop, "a siege is borne"
    assert not plan(NEVER_GOOD, RecoveryOptions(hopeless_after=0)).stop


@pytest.mark.parametrize("cause", [Cause.PRECISION, Cause.TRANSIENT, Cause.UNKNOWN])
def test_it_does_not_end_for_what_may_pass(cause):
    assert not plan(replace(NEVER_GOOD, cause=cause), OPTIONS).stop
