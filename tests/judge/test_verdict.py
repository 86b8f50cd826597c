"""The verdict, at its borders."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from yolo_gradsafe.judge.loss_trend import NO_SIGNAL
from yolo_gradsafe.judge.verdict import StepMetrics, judge

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
    buffers_sound=True,
    scaler=False,
    amp_scale=1.0,
)
SCALED = replace(HEALTHY, scaler=True, amp_scale=1024.0)


def verdict(sample: StepMetrics, floor: float = 1.0, state_finite: bool = True) -> str:
    return str(judge(sample, floor, state_finite))


def test_a_healthy_step_is_ok():
    assert verdict(HEALTHY) == verdict(SCALED) == "ok"


def test_a_huge_but_finite_norm_is_no_fault_of_the_batch():
    assert verdict(replace(HEALTHY, grad_norm=math.inf)) == "ok"


@pytest.mark.parametrize("sample", [HEALTHY, SCALED], ids=["no-scaler", "scaler"])
def test_a_loss_that_is_not_finite_is_a_bad_batch_with_and_without_a_scaler(sample):
    assert verdict(replace(sample, losses=[math.nan], losses_finite=False, grads_finite=False)) == "bad_batch"
    assert verdict(replace(sample, losses=[math.inf], losses_finite=False)) == "bad_batch"


def test_gradients_overflow_as_routine_only_under_a_scaler_above_its_floor():
    assert verdict(replace(SCALED, grads_finite=False)) == "amp_overflow"
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=1.0001)) == "amp_overflow"
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=1.0)) == "bad_batch"
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=16.0), floor=16.0) == "bad_batch"
    assert verdict(replace(HEALTHY, grads_finite=False)) == "bad_batch"


def test_an_overflow_that_reached_batch_norm_is_not_routine():
    assert verdict(replace(SCALED, grads_finite=False, buffers_sound=False)) == "bad_batch"


def test_damaged_statistics_behind_a_healthy_step_are_poisoned():
    assert verdict(replace(HEALTHY, buffers_sound=False)) == "poisoned"


def test_without_a_look_at_the_state_it_is_taken_for_sound():
    bad = replace(HEALTHY, losses=[math.nan], losses_finite=False, grads_finite=False)
    assert judge(bad, 1.0) == "bad_batch"


def test_a_scale_that_is_itself_infinite_is_no_search_for_one():
    assert verdict(replace(SCALED, grads_finite=False, amp_scale=math.inf)) == "bad_batch"


def test_a_finite_step_is_named_after_the_worst_that_is_known_of_it():
    outlook = replace(NO_SIGNAL, spike=True)
    assert judge(HEALTHY, 1.0, outlook=outlook, diverging=True, stalled=True) == "diverging"
    assert judge(HEALTHY, 1.0, outlook=outlook, stalled=True) == "spike"
    assert judge(HEALTHY, 1.0, stalled=True) == "stalled"
    damaged = replace(HEALTHY, buffers_sound=False)
    assert judge(damaged, 1.0, outlook=outlook, diverging=True, stalled=True) == "poisoned"


def test_a_step_that_is_not_finite_is_never_named_after_the_past():
    bad = replace(HEALTHY, grads_finite=False)
    assert judge(bad, 1.0, outlook=replace(NO_SIGNAL, spike=True), diverging=True, stalled=True) == "bad_batch"


def test_damaged_state_behind_a_bad_step_is_poisoned():
    bad = replace(HEALTHY, losses=[math.nan], losses_finite=False, grads_finite=False)
    assert verdict(bad, state_finite=False) == "poisoned"
