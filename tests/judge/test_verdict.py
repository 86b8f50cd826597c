"""The verdict, at its borders."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from yolo_gradsafe.judge.loss_trend import LossTrend
from yolo_gradsafe.judge.movement import Movement
from yolo_gradsafe.judge.verdict import BatchNormHealth, Evidence, Signals, StepMetrics, clipped, judge, safe_to_apply
from yolo_gradsafe.telemetry.schema import Verdict

HEALTHY = StepMetrics(
    epoch=1,
    step=1,
    batch=1,
    lr=0.01,
    losses=[1.0],
    items={"box_loss": 1.0},
    images=4,
    image_loss=0.25,
    grad_norm=5.0,
    losses_finite=True,
    grads_finite=True,
    batchnorm=BatchNormHealth.SOUND,
    scaler=False,
    amp_scale=1.0,
)
SCALED = replace(HEALTHY, scaler=True, amp_scale=1024.0)


def verdict(metrics: StepMetrics, floor: float = 1.0, state_finite: bool = True) -> str:
    evidence = Evidence.NONE if state_finite else Evidence.STATE_DAMAGED
    return str(judge(metrics, evidence=evidence, scale_floor=floor))


def test_a_healthy_step_is_ok():
    assert verdict(HEALTHY) == verdict(SCALED) == "ok"


def test_a_huge_but_finite_norm_is_no_fault_of_the_batch():
    assert verdict(replace(HEALTHY, grad_norm=math.inf)) == "ok"


@pytest.mark.parametrize("metrics", [HEALTHY, SCALED], ids=["no-scaler", "scaler"])
def test_a_loss_that_is_not_finite_is_a_bad_batch_with_and_without_a_scaler(metrics):
    assert verdict(replace(metrics, losses=[math.nan], losses_finite=False, grads_finite=False)) == "bad_batch"
    assert verdict(replace(metrics, losses=[math.inf], losses_finite=False)) == "bad_batch"


def test_gradients_overflow_as_routine_only_under_a_scaler_above_its_floor():
    assert verdict(replace(SCALED, grads_finite=False)) == "amp_overflow"
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=1.0001)) == "amp_overflow"
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=1.0)) == "bad_batch"
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=16.0), floor=16.0) == "bad_batch"
    assert verdict(replace(HEALTHY, grads_finite=False)) == "bad_batch"


def test_an_overflow_that_reached_batch_norm_is_not_routine():
    assert verdict(replace(SCALED, grads_finite=False, batchnorm=BatchNormHealth.BLOWN_UP)) == "bad_batch"


def test_damaged_statistics_behind_a_healthy_step_are_poisoned():
    assert verdict(replace(HEALTHY, batchnorm=BatchNormHealth.BLOWN_UP)) == "poisoned"


def test_without_a_look_at_the_state_it_is_taken_for_sound():
    bad = replace(HEALTHY, losses=[math.nan], losses_finite=False, grads_finite=False)
    assert judge(bad) == "bad_batch"


def test_a_scale_that_is_itself_infinite_is_no_search_for_one():
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=math.inf)) == "bad_batch"


SPIKE = Signals(loss=LossTrend.SPIKE, vanished=("neck",))
DIVERGING = Evidence.TRUSTED_DO_BETTER


def test_a_finite_step_is_named_after_the_worst_that_is_known_of_it():
    assert judge(HEALTHY, SPIKE, DIVERGING) == "diverging"
    assert judge(HEALTHY, SPIKE) == "spike"
    assert judge(HEALTHY, Signals(loss=LossTrend.SUSPECT)) == "spike", "trusted weights did no better"
    assert judge(HEALTHY, Signals(movement=Movement.TOO_FAR)) == "ok", "that limits the rate and is no verdict"
    assert judge(HEALTHY, Signals(vanished=("neck",))) == "stalled"
    damaged = replace(HEALTHY, batchnorm=BatchNormHealth.BLOWN_UP)
    assert judge(damaged, SPIKE, DIVERGING) == "poisoned"


def test_a_step_that_is_not_finite_is_never_named_after_the_past():
    assert judge(replace(HEALTHY, grads_finite=False), SPIKE, DIVERGING) == "bad_batch"


def test_any_step_after_one_that_replaced_the_weights_is_diverging():
    replaced = Evidence.MOVED_TOO_FAR
    for step in (HEALTHY, SCALED, replace(SCALED, grads_finite=False), replace(HEALTHY, losses_finite=False)):
        assert judge(step, evidence=replaced) == "diverging"


@pytest.mark.parametrize(("health", "at_last"), [("BLOWN_UP", "ok"), ("NOT_FINITE", "diverging")])
def test_spoilt_statistics_are_the_batch_three_times_and_then_the_data_or_the_weights(health, at_last):
    damaged = replace(HEALTHY, batchnorm=BatchNormHealth[health])
    assert [judge(damaged, Signals(unsound_steps=n)) for n in (1, 2, 3, 4)] == ["poisoned"] * 3 + [at_last]


def test_damaged_state_behind_a_bad_step_is_poisoned():
    bad = replace(HEALTHY, losses=[math.nan], losses_finite=False, grads_finite=False)
    assert verdict(bad, state_finite=False) == "poisoned"


def test_the_word_clipped_is_for_a_step_that_needs_no_other():
    assert [clipped(Verdict.OK, scale) for scale in (0.5, 1.0)] == ["clipped", "ok"]
    assert clipped(Verdict.SPIKE, 0.5) == "spike"


def test_only_finite_gradients_of_a_trusted_model_are_safe_to_apply():
    assert safe_to_apply(HEALTHY, Verdict.POISONED), "statistics alone do no harm to the gradients"
    assert not safe_to_apply(HEALTHY, Verdict.DIVERGING)
    assert not safe_to_apply(replace(HEALTHY, grads_finite=False), Verdict.AMP_OVERFLOW)
