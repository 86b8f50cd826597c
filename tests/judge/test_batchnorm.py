"""The norm of the batch-norm statistics from step to step."""

from __future__ import annotations

import json
import math

from yolo_gradsafe.judge.batchnorm import BatchNormMonitor


def settled() -> BatchNormMonitor:
    monitor = BatchNormMonitor()
    assert not monitor.is_blown_up(100.0), "the first step has nothing to be compared with"
    monitor.commit(100.0)
    return monitor


def test_a_thousandfold_growth_in_one_step_is_blown_up():
    assert not settled().is_blown_up(99_000.0)
    assert settled().is_blown_up(101_000.0)


def test_what_was_blown_up_is_no_measure():
    monitor = settled()
    assert monitor.is_blown_up(1e14)
    assert monitor.is_blown_up(1e14)
    assert not monitor.is_blown_up(120.0)


def test_unsound_steps_are_counted_in_a_row():
    monitor = settled()
    assert [monitor.count_unsound() for _ in range(4)] == [1, 2, 3, 4]
    monitor.commit(100.0)
    assert monitor.count_unsound() == 1
    monitor.forgive()
    assert monitor.count_unsound() == 1


def test_the_state_is_strict_json_and_comes_back():
    fresh, again = BatchNormMonitor(), settled()
    again.load_state_dict(json.loads(json.dumps(fresh.state_dict(), allow_nan=False)))
    assert not again.is_blown_up(1e30), "nothing is usual yet"
    again.load_state_dict(json.loads(json.dumps(settled().state_dict(), allow_nan=False)))
    assert again.is_blown_up(101_000.0)
    assert not again.is_blown_up(math.nan)
