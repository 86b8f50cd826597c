"""Steps that move the weights too far."""

from __future__ import annotations

import json
import math

import pytest

from yolo_gradsafe.judge.movement import Movement, MovementMonitor


def observe(monitor: MovementMonitor, *ratios: float) -> list[Movement]:
    return [monitor.observe(ratio) for ratio in ratios]


@pytest.mark.parametrize("ratio", [0.0, 1e-4, 0.019, 0.039, math.nan])
def test_a_clean_training_says_nothing(ratio):
    assert observe(MovementMonitor(), *[ratio] * 10) == [Movement.USUAL] * 10


def test_one_step_is_an_outlier_and_two_are_the_rate():
    seen = observe(MovementMonitor(), 0.06, 0.01, 0.06, 0.06, 0.06)
    assert seen == [Movement.USUAL] * 3 + [Movement.TOO_FAR] * 2


def test_a_step_of_half_the_weights_size_has_replaced_them_at_once():
    assert observe(MovementMonitor(), 0.51) == [Movement.REPLACED]
    assert observe(MovementMonitor(), 29.0, math.inf)[1] is Movement.REPLACED


def test_steps_in_a_row_that_come_to_a_third_have_replaced_them_together():
    seen = observe(MovementMonitor(), 0.2, 0.01, 0.2, 0.05, 0.1, 0.01)
    assert [movement is Movement.REPLACED for movement in seen] == [False, False, False, False, True, False]


def test_it_goes_on_from_its_state():
    monitor, other = MovementMonitor(), MovementMonitor()
    observe(monitor, 0.2)
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert observe(other, 0.15) == [Movement.REPLACED]


def test_a_row_of_any_length_is_two_numbers():
    monitor = MovementMonitor()
    observe(monitor, *[math.inf, 0.06] * 500)
    state = json.loads(json.dumps(monitor.state_dict(), allow_nan=False))
    assert state == {"row": 1000, "moved": pytest.approx(500 * 1.06)}
