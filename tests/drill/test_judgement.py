"""What passes and what does not, at the borders."""

from __future__ import annotations

from dataclasses import replace

import pytest

from yolo_gradsafe.drill.judgement import Clean, judge, limit
from yolo_gradsafe.drill.outcome import Outcome
from yolo_gradsafe.drill.scenario import PARTS, Promise

FINITE = dict.fromkeys(PARTS, 0)
GOOD = Outcome(fired=1, not_finite=FINITE, applied=127, map50=0.95)
CLEAN = Clean([replace(GOOD, fired=0, applied=128, map50=accuracy) for accuracy in (0.95, 0.94, 0.96)])
PROMISE = Promise()


def reasons(outcome: Outcome, promise: Promise = PROMISE, clean: Clean = CLEAN, learns: bool = True) -> str:
    return "; ".join(judge(promise, True, outcome, clean, learns).reasons)


def test_a_good_one_passes():
    judgement = judge(PROMISE, True, GOOD, CLEAN, True)
    assert judgement.passed
    assert judgement.reasons == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"error": "RuntimeError: NaN"}, "died: RuntimeError: NaN"),
        ({"fired": 0, "applied": 128}, "did not strike"),
        ({"not_finite": {**FINITE, "buffers": 3}}, "tensors of buffers not finite: 3"),
        ({"not_finite": {**FINITE, "best.pt": -1}}, "best.pt does not load"),
        ({"not_finite": {}}, "nothing was trained"),
        ({"spoiled_saves": 1}, "checkpoints filled with zeros or clamped: 1"),
        ({"nan_rows": 1}, "NaN rows in results.csv: 1"),
        ({"epochs_redone": 1}, "epochs redone: 1"),
        ({"incidents": {"rollback": 1}}, "rollbacks: 1, at most 0"),
        ({"incidents": {"internal_error": 1}}, "errors inside the guard: 1"),
        ({"applied": 126}, "steps lost: 2, at most 1"),
        ({"rolled_back": 1}, "steps lost: 2, at most 1"),
        ({"map50": None}, "mAP50 0.000"),
    ],
)
def test_one_thing_wrong(change, reason):
    assert reason in reasons(replace(GOOD, **change))


def test_a_row_of_strikes_may_cost_as_many_steps():
    assert reasons(replace(GOOD, fired=10, applied=118)) == ""
    assert "11, at most 10" in reasons(replace(GOOD, fired=10, applied=117))
    assert reasons(replace(GOOD, fired=10, applied=126), Promise(steps=2, steps_a_strike=0)) == ""
    assert "3, at most 2" in reasons(replace(GOOD, fired=10, applied=125), Promise(steps=2, steps_a_strike=0))


def test_accuracy_within_the_share_or_the_spread_whichever_is_more():
    assert limit(PROMISE, CLEAN) == pytest.approx(0.95 * 0.95)
    assert reasons(replace(GOOD, map50=0.95 * 0.95 + 1e-9)) == ""
    assert "mAP50" in reasons(replace(GOOD, map50=0.95 * 0.95 - 1e-3))
    wide = Clean([replace(GOOD, applied=128, map50=accuracy) for accuracy in (0.9, 0.7, 0.8)])
    assert limit(PROMISE, wide) == pytest.approx(0.6)


def test_a_run_too_short_to_learn_is_not_judged_by_accuracy():
    assert reasons(replace(GOOD, map50=None), learns=False) == ""


def test_without_a_fault_nothing_has_to_strike():
    assert judge(Promise(steps_a_strike=0), False, replace(GOOD, fired=0, applied=128), CLEAN, True).passed
