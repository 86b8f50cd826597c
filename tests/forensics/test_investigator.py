"""Which bad steps are looked into, and whose account of them counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from yolo_gradsafe.forensics.culprit import Culprit

from tests.fake_trainer import Core, TwoRanks, batch_of
from yolo_gradsafe.forensics import investigator as module
from yolo_gradsafe.forensics.investigator import FaultInvestigator, place_of
from yolo_gradsafe.forensics.options import ForensicsOptions
from yolo_gradsafe.judge.verdict import BatchNormHealth, StepMetrics
from yolo_gradsafe.telemetry.schema import Kind, Place, Remedy, Verdict

NAN = StepMetrics(
    epoch=1, step=5, batch=5, lr=0.01, losses=[math.nan], items={}, images=4, image_loss=0.0, grad_norm=math.nan,
    losses_finite=False, grads_finite=False, batchnorm=BatchNormHealth.SOUND, scaler=False, amp_scale=1.0,
    bad_tensors=["conv.weight"],
)  # fmt: skip
GRADIENTS = replace(NAN, losses=[8.0], losses_finite=True)
"""The loss is fine, the gradients are not."""
EARLIER = replace(NAN, losses=[math.nan, 8.0])
"""An earlier micro-batch of the window."""
FINE = replace(GRADIENTS, grads_finite=True, grad_norm=1.0, bad_tensors=[])
UNSOUND = replace(FINE, batchnorm=BatchNormHealth.NOT_FINITE)
BLOWN_UP = replace(FINE, batchnorm=BatchNormHealth.BLOWN_UP)

GUILTY = Culprit(
    "pixels", images=("/data/a.jpg",), indices=(0,), proven=True, detail="1 NaN or Inf pixel", layer="conv"
)


@pytest.mark.parametrize(("metrics", "verdict", "place"), [
    (NAN, Verdict.BAD_BATCH, Place.LOSS),
    (GRADIENTS, Verdict.BAD_BATCH, Place.GRADIENTS),
    (EARLIER, Verdict.BAD_BATCH, Place.WINDOW),
    (replace(GRADIENTS, losses_finite=False), Verdict.BAD_BATCH, Place.WINDOW),  # another rank's loss
    (FINE, Verdict.DIVERGING, Place.LOSS),
    (UNSOUND, Verdict.DIVERGING, Place.BATCHNORM),
    (UNSOUND, Verdict.POISONED, Place.BATCHNORM),
    (BLOWN_UP, Verdict.POISONED, Place.BATCHNORM),
    (FINE, Verdict.POISONED, Place.BATCHNORM),
    (NAN, Verdict.POISONED, Place.STATE),
    (GRADIENTS, Verdict.POISONED, Place.STATE),
    (replace(NAN, batchnorm=BatchNormHealth.NOT_FINITE), Verdict.POISONED, Place.STATE),
    (replace(NAN, batchnorm=BatchNormHealth.NOT_FINITE), Verdict.BAD_BATCH, Place.LOSS),
])  # fmt: skip
def test_where_a_step_was_seen_to_be_bad(metrics, verdict, place):
    assert place_of(metrics, verdict) is place


class Bench:
    """An investigator with a batch in the window, and a diagnosis that is known."""

    def __init__(self, folder, patch, culprit=GUILTY, **options) -> None:
        self.core, self.asked, self.culprit = Core(folder), [], culprit
        window = self.core.step.window
        options = ForensicsOptions(**{"pictures": 0, "quarantine": 2, **options})
        self.investigator = FaultInvestigator(self.core.trainer, options, window, self.core.log)
        raw = self.core.raw
        raw.loss, raw.loss_items = torch.tensor(math.nan), {"box_loss": torch.tensor(math.nan)}
        window.open(1, 5)
        window.set_images(batch_of(5))
        window.hold_batch(batch_of(5))
        window.set_loss(raw.loss)
        patch.setattr(module, "diagnose", self.diagnose)

    def diagnose(self, replay, batch, **what) -> Culprit:
        self.asked.append(what)
        return self.culprit

    def another_rank(self, culprit=None, finite=True, **facts) -> None:
        """Let the trainer be rank 0 of two, of which the other gives this account."""
        account = {"place": "window", "loss": 7.0, "images": ["theirs.jpg"], "picture": "", **facts}
        self.core.among(TwoRanks()).objects.append([finite, culprit and culprit.record(), account])


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return lambda *args, **options: Bench(tmp_path, monkeypatch, *args, **options)


def test_the_facts_of_a_bad_step(bench):
    made = bench()
    facts = made.investigator.step(NAN, Verdict.BAD_BATCH)
    assert facts.pop("culprit") == GUILTY.sentence()
    assert math.isnan(facts.pop("loss"))
    assert math.isnan(facts.pop("grad_norm"))
    assert facts == {
        "place": Place.LOSS, "items": {}, "amp_scale": 1.0, "tensors": ["conv.weight"], "tensor_count": 1,
        "images": ["/data/a.jpg"], "picture": "", "layer": "conv", "term": "",
    }  # fmt: skip


def test_without_a_name_to_blame_it_is_the_whole_batch(bench):
    facts = bench(Culprit("transient")).investigator.step(NAN, Verdict.BAD_BATCH)
    assert facts["images"] == batch_of(5)["im_file"]


def test_an_outlier_is_measured_by_the_healthy_steps_before(bench):
    made = bench()
    for loss in (1.0, 3.0, 2.0, math.inf):
        made.investigator.observe({"box_loss": loss})
    made.investigator.step(FINE, Verdict.DIVERGING)
    [asked] = made.asked
    assert (asked["medians"], asked["outlier"], asked["gradients_bad"]) == ({"box_loss": 2.0}, True, True)


@pytest.mark.parametrize(("metrics", "looked"), [
    (NAN, True),
    (GRADIENTS, True),
    (EARLIER, False),  # the bad one is gone
    (replace(GRADIENTS, losses_finite=False), False),  # it is another rank's
])  # fmt: skip
def test_an_innocent_batch_is_not_looked_into(bench, metrics, looked):
    made = bench()
    facts = made.investigator.step(metrics, Verdict.BAD_BATCH)
    assert bool(made.asked) is looked
    assert ("culprit" in facts) is looked


def test_there_is_a_budget_of_diagnoses(bench):
    made = bench(diagnoses=2)
    told = ["culprit" in made.investigator.step(NAN, Verdict.BAD_BATCH) for _ in range(4)]
    assert told == [True, True, False, False]
    assert len(made.asked) == 2
    assert made.investigator.step(NAN, Verdict.BAD_BATCH)["place"] is Place.LOSS, (
        "what was measured is told all the same"
    )


def test_a_batch_that_is_gone_costs_nothing_of_it(bench):
    made = bench(diagnoses=1)
    made.core.step.window.release_batch()
    made.investigator.step(NAN, Verdict.BAD_BATCH)
    assert made.investigator.state_dict()["looked"] == 0


# Ranks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "ours_finite", "theirs", "theirs_finite", "winner"), [
    (None, True, None, True, 0),  # of equals the first
    (None, True, None, False, 1),  # whose loss is not finite
    (GUILTY, True, None, False, 1),
    (None, False, None, True, 0),
    (None, True, GUILTY, True, 1),  # who can name it
    (Culprit("transient"), True, GUILTY, True, 1),
    (Culprit("unknown"), False, GUILTY, False, 1),
    (GUILTY, False, GUILTY, False, 0),
    (GUILTY, False, Culprit("transient"), False, 0),
])  # fmt: skip
def test_the_rank_that_knows_best_is_heard(bench, ours, ours_finite, theirs, theirs_finite, winner):
    made = bench(ours)
    made.another_rank(theirs, theirs_finite)
    metrics = GRADIENTS if ours_finite else NAN
    if ours is None:
        made.core.step.window.release_batch()  # it does not look
    facts = made.investigator.step(metrics, Verdict.BAD_BATCH)
    assert facts["rank"] == winner
    assert facts["place"] is (Place.WINDOW if winner else Place.LOSS if not ours_finite else Place.GRADIENTS)
    named = theirs if winner else ours
    assert facts.get("culprit") == (named.sentence() if named else None)


def test_a_lone_process_is_no_rank(bench):
    assert "rank" not in bench().investigator.step(NAN, Verdict.BAD_BATCH)


def test_offences_are_counted_on_all_ranks(bench):
    made = bench(Culprit("pixels", images=("/data/mine.jpg",), proven=True))
    for _ in range(2):
        made.another_rank(GUILTY)
        made.investigator.step(NAN, Verdict.BAD_BATCH)
    assert made.investigator.quarantine.images == ["/data/mine.jpg", "/data/a.jpg"]
    assert [(i.kind, i.images) for i in made.core.incidents()] == [
        (Kind.QUARANTINE, ["/data/mine.jpg"]),
        (Kind.QUARANTINE, ["/data/a.jpg"]),
    ]


def test_the_quarantine_may_be_off(bench):
    made = bench(quarantine=0)
    for _ in range(3):
        made.investigator.step(NAN, Verdict.BAD_BATCH)
    assert made.investigator.quarantine.images == []


# Micro-batches and state ---------------------------------------------------------------------------------------------


def test_a_micro_batch_that_is_taken_out_has_an_incident_of_its_own(bench):
    made = bench()
    made.investigator.micro_batch()
    [told] = made.core.incidents()
    assert (told.kind, told.place, told.remedies, told.batch) == (
        Kind.ISOLATED, Place.WINDOW, (Remedy.MICRO_BATCH_DROPPED,), 5,
    )  # fmt: skip
    assert (told.images, told.culprit) == (["/data/a.jpg"], GUILTY.sentence())


def test_a_resumed_run_goes_on_with_budget_medians_and_offences(bench):
    made = bench(diagnoses=3)
    made.investigator.observe({"box_loss": 2.0})
    made.investigator.step(NAN, Verdict.BAD_BATCH)
    state = json.loads(json.dumps(made.investigator.state_dict(), allow_nan=False))
    other = bench(diagnoses=3).investigator
    other.load_state_dict(state)
    assert other.state_dict() == state
    other.step(NAN, Verdict.BAD_BATCH)
    assert other.quarantine.images == ["/data/a.jpg"], "the second offence"


def test_the_evidence_of_an_earlier_run_goes_with_the_start(tmp_path):
    old = tmp_path / "stability" / "batches" / "e001_b0001.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    Core(tmp_path)
    assert not old.exists()
