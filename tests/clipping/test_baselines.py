"""What each baseline takes for usual, by hand."""

from __future__ import annotations

import math

import pytest

from yolo_gradsafe.clipping.adaptive import LevelShift
from yolo_gradsafe.clipping.rules.zscore import ZClipBaseline
from yolo_gradsafe.gradients.robust import usual_range

NOTHING = (0.0, math.inf)


def test_the_usual_range_is_as_wide_upward_as_downward_in_factors():
    low, high = usual_range([1.0, math.e, math.e**2], 2.0, 0.1)
    assert math.log(low) == pytest.approx(1 - 2 * 1.4826)
    assert math.log(high) == pytest.approx(1 + 2 * 1.4826)
    assert usual_range([5.0, 5.0], 2.0, 0.5) == pytest.approx((5 / math.e, 5 * math.e)), "the floor under the deviation"
    assert usual_range([], 2.0, 0.5) == NOTHING


def test_the_usual_range_stays_within_what_a_float_can_hold():
    low, high = usual_range([1e-300, 1e300], 9.0, 0.1)
    assert 0 < low < 1e-300
    assert 1e300 < high < math.inf


def test_zscore_begins_with_nothing():
    fresh, emptied = ZClipBaseline(2.0, 0.9, 0.0), ZClipBaseline(2.0, 0.9, 0.0)
    emptied.restart([5.0, 6.0])
    emptied.restart([])
    for baseline in (fresh, emptied):
        assert baseline.state_dict() == {"mean": 0.0, "variance": 0.0}
        assert baseline.usual_range() == NOTHING
        assert baseline.next_threshold(0.5) == math.inf, "the first norm is no outlier of anything"
        assert baseline.state_dict() == {"mean": 0.5, "variance": 0.0}
        assert baseline.usual_range() == (0.5, 0.5)


def test_zscore_winsorises_what_it_starts_with():
    baseline = ZClipBaseline(2.0, 0.9, 0.0)
    baseline.restart([8.0, 9.0, 10.0, 11.0, 1000.0])
    capped = 10 + 2 * 1.4826
    mean = (8 + 9 + 10 + 11 + capped) / 5
    variance = sum((norm - mean) ** 2 for norm in (8, 9, 10, 11, capped)) / 5
    assert baseline.state_dict() == pytest.approx({"mean": mean, "variance": variance})


def test_zscore_takes_equal_norms_as_they_are_where_nothing_says_what_is_far():
    baseline = ZClipBaseline(2.0, 0.9, 0.0)
    baseline.restart([4.0, 4.0, 4.0, 8.0])
    assert baseline.state_dict() == {"mean": 5.0, "variance": 3.0}
    floored = ZClipBaseline(2.0, 0.9, 0.05)
    floored.restart([4.0, 4.0, 4.0, 8.0])
    assert floored.state_dict()["mean"] == pytest.approx(4.1), "8 was taken for 4 + 2 * 0.05 * 4"


def test_zscore_finds_usual_what_is_within_one_factor_of_the_mean():
    baseline = ZClipBaseline(2.0, 0.9, 0.0)
    baseline.load_state_dict({"mean": 10.0, "variance": 4.0})
    assert baseline.usual_range() == pytest.approx((10 / 1.4, 14.0))
    small = ZClipBaseline(2.0, 0.9, 0.1)
    small.load_state_dict({"mean": 0.5, "variance": 0.0})
    assert small.usual_range() == pytest.approx((0.5 / 1.2, 0.6)), "the floor under sigma"


def test_a_level_is_patience_outliers_on_one_side_within_twice_as_many_steps():
    shift = LevelShift(3)
    assert [shift.update(norm, 1.0, 2.0) for norm in (9.0, 1.5, 8.0, 1.5, 7.0)] == [[], [], [], [], [9.0, 8.0, 7.0]]
    assert [shift.update(norm, 1.0, 2.0) for norm in (9.0, 8.0)] == [[], []], "it begins to count again"


def test_outliers_too_far_apart_or_on_both_sides_are_no_level():
    apart, both = LevelShift(3), LevelShift(3)
    norms = (9.0, 1.5, 1.5, 8.0, 1.5, 1.5, 7.0)
    assert [apart.update(norm, 1.0, 2.0) for norm in norms] == [[]] * 7
    assert [both.update(norm, 1.0, 2.0) for norm in (9.0, 8.0, 0.5, 9.0, 8.0)] == [[]] * 5
    assert both.update(7.0, 1.0, 2.0) == [9.0, 8.0, 7.0]


def test_the_ends_of_the_range_are_usual():
    shift = LevelShift(2)
    assert [shift.update(norm, 1.0, 2.0) for norm in (1.0, 2.0, 1.0, 2.0)] == [[]] * 4
    assert shift.state_dict() == {"step": 4, "side": 0, "outliers": []}
