"""What came of an incident: cost, whether the remedy held, what stock does, what to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.runs import INFO, bad, incident, row, write
from yolo_gradsafe.report.incident_groups import IncidentGroup
from yolo_gradsafe.report.outcomes import stock
from yolo_gradsafe.report.parts import IncidentEntry, Outcome, Run
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.telemetry import Incident
from yolo_gradsafe.telemetry.schema import Held, Stock
from yolo_gradsafe.telemetry.sentences import cost, held
from yolo_gradsafe.telemetry.sentences import stock as said


def came(run: Path, *found: Incident, steps: int = 60, arguments: str = "lr0: 0.1\n") -> list[Outcome]:
    """Return what came of incidents whose steps were skipped."""
    at = {entry.step for entry in found}
    write(run, steps, lambda n: bad(n) if n in at else row(n), list(found), replace(INFO, amp="fp32"))
    (run / "args.yaml").write_text(arguments, encoding="utf-8")
    return summarize(run).outcomes


def test_a_remedy_holds_after_ten_healthy_steps(tmp_path):
    (nine,) = came(tmp_path / "a", incident(51), steps=60)
    assert (nine.held, nine.healthy_since) == ("open", 9)
    (ten,) = came(tmp_path / "b", incident(50), steps=60)
    assert (ten.held, ten.healthy_since) == ("confirmed", 10)


def test_steps_that_were_undone_do_not_show_that_a_remedy_held(tmp_path):
    # Step 20 diverges; the validation after step 33 takes 19 to 33 back.
    first = incident(20, kind="diverging", cause="weights", remedies=("skipped",), steps_lost=1)
    back = Incident("rollback", 4, 33, 3, place="validation", remedies=("rolled_back",), snapshot=18, undone=15,
                    steps_lost=15)  # fmt: skip
    end = came(tmp_path / "a", first, back, steps=34)
    assert [(one.held, one.healthy_since) for one in end] == [("open", 1), ("open", 1)]
    later = came(tmp_path / "b", first, back, steps=43)
    assert [(one.held, one.healthy_since) for one in later] == [("confirmed", 10), ("confirmed", 10)]


def test_a_remedy_does_not_hold_where_the_same_happens_again_soon(tmp_path):
    first, second = came(tmp_path / "a", incident(20, cause="loss"), incident(25, cause="loss"))
    assert (first.held, first.healthy_since) == ("again", 4)
    assert second.held == "confirmed"
    other, _ = came(tmp_path / "b", incident(20, cause="loss"), incident(25, cause="transient"))
    assert other.held == "confirmed", "another cause is another matter"


def test_another_broken_image_says_nothing_of_the_first_one(tmp_path):
    images = [incident(20, cause="image", images=["a.jpg"]), incident(25, cause="image", images=["b.jpg"])]
    assert [one.held for one in came(tmp_path, *images)] == ["confirmed", "confirmed"]


def test_the_cost_is_that_of_all_entries_of_a_step(tmp_path):
    found = [
        incident(20, kind="diverging", remedies=("skipped", "rolled_back", "lr_lowered"), steps_lost=1, lr_factor=0.1),
        incident(20, kind="rollback", steps_lost=12, undone=12, snapshot=7),
        incident(20, kind="lr_backoff", lr_factor=0.1),
    ]
    (one,) = came(tmp_path, *found)
    assert one.steps_lost == 13
    assert one.arguments == "lr0=0.03"


CASES = [
    (Stock.NAN_WEIGHTS, {"epoch": 3}, "fp32"),
    (Stock.NAN_WEIGHTS, {"epoch": 3, "kind": "isolated"}, "bf16"),
    (Stock.NAN_WEIGHTS_FIRST_EPOCH, {"epoch": 1}, "fp32"),
    (Stock.SKIPPED, {"cause": "loss"}, "fp16"),
    (Stock.SKIPPED_NAN_STATISTICS, {"cause": "image"}, "fp16"),
    (Stock.UNKNOWN, {}, ""),
    (Stock.UNKNOWN, {"place": "open_window"}, "fp32"),
    (Stock.KEPT_STATE, {"kind": "poisoned", "place": "state"}, "fp32"),
    (Stock.KEPT_STATISTICS, {"kind": "poisoned", "place": "batchnorm"}, "fp32"),
    (Stock.WENT_ON, {"kind": "lr_backoff", "cause": "learning_rate"}, "fp32"),
    (Stock.ZERO_GRADIENTS, {"kind": "norm_overflow"}, "fp32"),
    (Stock.UNKNOWN, {"kind": "of a later version"}, "fp32"),
]


@pytest.mark.parametrize(("expected", "facts", "amp"), CASES)
def test_what_stock_does(expected, facts, amp):
    entry = {"kind": "bad_batch", "epoch": 2, "step": 9, "batch": 1, "message": "", "action": "", **facts}
    assert stock(IncidentGroup(IncidentEntry(**entry)), Run(amp=amp)) is expected


def test_every_word_has_its_sentence():
    assert all(said(word) for word in Stock if word is not Stock.UNKNOWN)
    assert said(Stock.UNKNOWN) == ""
    assert len({held(word, 3) for word in Held}) == len(Held)
    assert [cost(steps) for steps in (0, 1, 1200)] == ["", "1 step lost", "1,200 steps lost"]
    assert held(Held.OPEN, 1) == "not confirmed yet: 1 healthy step since"
