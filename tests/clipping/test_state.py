"""What a clipper goes on from is checked to the last number, and what is wrong with it is said."""

from __future__ import annotations

import json

import pytest

from tests.clipping.measured import clipper, feed
from yolo_gradsafe.clipping import state as check

OPTIONS = {"warmup_steps": 2, "patience": 5, "max_norm": 1e9}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: check.fields({"a": 1, "c": 2}, "b", "a"), "expected the keys ['a', 'b'], got ['a', 'c']"),
        (lambda: check.fields([1], "a"), "expected the keys ['a'], got list"),
        (lambda: check.number("3"), "expected a finite number, got '3'"),
        (lambda: check.numbers(3), "expected a list of numbers, got 3"),
        (lambda: check.numbers([2.0, 0.0], above=0), "expected numbers over 0, got 0.0"),
        (lambda: check.count(-1), "expected a count, got -1"),
    ],
)
def test_the_message_says_what_was_expected_and_what_came(wrong, message):
    with pytest.raises(ValueError, match="clipper state") as error:
        wrong()
    assert str(error.value) == f"clipper state: {message}"


def test_what_is_right_passes():
    assert check.fields({"a": 1}, "a") == {"a": 1}
    assert check.number(3) == 3.0
    assert check.numbers((0.5, 2), above=0) == [0.5, 2.0]
    assert check.numbers([-1.0]) == [-1.0]
    assert check.count(0) == 0


@pytest.mark.parametrize("mode", ["norm", "none", "value", "agc"])
def test_a_rule_that_does_not_learn_goes_on_from_nothing(mode):
    rule = clipper(mode=mode)
    rule.load_state_dict({})
    assert rule.state_dict() == {}


@pytest.mark.parametrize("mode", ["percentile", "auto", "zscore", "adagc"])
@pytest.mark.parametrize("steps", [1, 9])
def test_norms_under_one_are_taken_up(mode, steps):
    rule, twin = clipper(mode=mode, **OPTIONS), clipper(mode=mode, **OPTIONS)
    feed(rule, [0.5, 0.25, 0.5, 0.25, 0.5, 0.5, 0.25, 9.0, 0.01][:steps])
    twin.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert twin.state_dict() == rule.state_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": [0.0]}, "expected numbers over 0, got 0.0"),
        ({"baseline": {"norms": [1.0, 0.0]}}, "expected numbers over 0, got 0.0"),
        ({"shift": {"step": 1, "side": 2, "outliers": []}}, "expected a side of -1, 0 or 1, got 2"),
        ({"shift": {"step": 1, "side": 1, "outliers": [[1, 0.0]]}}, "expected numbers over 0, got 0.0"),
        ({"shift": {"step": 1, "side": 1, "outliers": [[1, 2.0, 3.0]]}}, "expected outliers as [step, norm]"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    rule = clipper(mode="auto", **OPTIONS)
    with pytest.raises(ValueError, match="clipper state") as error:
        rule.load_state_dict({**rule.state_dict(), **changes})
    assert str(error.value) == f"clipper state: {message}"


def test_a_tensor_without_a_usual_norm_yet_is_taken_up():
    shift = {"step": 0, "side": 0, "outliers": []}
    rule = clipper(mode="adagc", **OPTIONS)
    for usual in (0.0, 0.5):
        state = {"tensors": {"a.weight": {"seen": 1, "usual": usual, "shift": shift}}}
        rule.load_state_dict(state)
        assert rule.state_dict() == state
