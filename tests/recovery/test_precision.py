"""The precision ladder, and the loss scale."""

from __future__ import annotations

import json
import math

import pytest

from yolo_gradsafe.recovery.loss_scale import LossScaleKeeper
from yolo_gradsafe.recovery.precision import PrecisionLadder

RUNGS = ["fp16", "bf16", "fp32"]


def test_it_climbs_when_faults_come_close_together():
    ladder = PrecisionLadder(RUNGS, patience=2, hold=10)
    assert [ladder.count_fault(1), ladder.count_fault(101), ladder.count_fault(200)] == [False, False, True]
    assert ladder.now == "bf16"
    assert [ladder.count_fault(201), ladder.count_fault(202)] == [False, True]
    assert ladder.now == "fp32"
    assert [ladder.count_fault(203), ladder.count_fault(204)] == [False, False], "there is nothing above"


def test_it_comes_back_after_clean_steps_and_waits_longer_the_next_time():
    ladder = PrecisionLadder(RUNGS, patience=1, hold=10)
    ladder.count_fault(1)
    assert [ladder.count_safe_step() for _ in range(10)] == [False] * 9 + [True]
    assert ladder.now == "fp16"
    ladder.count_fault(20)
    assert [ladder.count_safe_step() for _ in range(20)] == [False] * 19 + [True]


def test_full_precision_has_no_rungs():
    ladder = PrecisionLadder(["fp32"], patience=1, hold=10)
    assert not any(ladder.count_fault(step) for step in range(5))
    assert not any(ladder.count_safe_step() for _ in range(50))


def test_the_ladder_goes_on_from_its_state():
    ladder, other = PrecisionLadder(RUNGS, 1, 10), PrecisionLadder(RUNGS, 1, 10)
    ladder.count_fault(1)
    ladder.count_safe_step()
    other.load_state_dict(json.loads(json.dumps(ladder.state_dict())))
    assert other.now == "bf16"
    assert [ladder.count_safe_step() for _ in range(10)] == [other.count_safe_step() for _ in range(10)]


def test_routine_overflows_are_left_to_the_scaler():
    keeper = LossScaleKeeper(floor=1.0)
    assert [keeper.after_overflow(2.0**n, 0.5) for n in range(16, 0, -1)] == [None] * 16


def test_the_scale_does_not_fall_below_its_floor():
    assert LossScaleKeeper(floor=16.0).after_overflow(20.0, 0.5) == 16.0


def test_hysteresis_forgives_some_overflows():
    keeper = LossScaleKeeper(floor=1.0, hysteresis=3)
    assert [keeper.after_overflow(1024.0, 0.5) for _ in range(3)] == [1024.0, 1024.0, None]
    keeper.after_overflow(1024.0, 0.5)
    keeper.note_good(1024.0)
    assert [keeper.after_overflow(1024.0, 0.5) for _ in range(3)] == [1024.0, 1024.0, None]


@pytest.mark.parametrize("scale", [0.0, math.inf, math.nan])
def test_a_scale_that_is_none_becomes_the_last_good_one(scale):
    keeper = LossScaleKeeper(floor=1.0)
    assert keeper.after_skip(scale) == 1.0
    keeper.note_good(4096.0)
    assert keeper.after_skip(scale) == 4096.0
    assert keeper.after_skip(512.0) == 512.0
