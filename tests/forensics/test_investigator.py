"""Which bad steps are looked into, and whose account of them counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from tests.fake_trainer import Core, TwoRanks, batch_of, nan_batch
from yolo_gradsafe.forensics import investigator as module
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.diagnose import Cap
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.investigator import FaultInvestigator, place_of
from yolo_gradsafe.forensics.options import ForensicsOptions
from yolo_gradsafe.judge.verdict import BatchNormHealth, StepMetrics
from yolo_gradsafe.telemetry.schema import Cause, Incident, Kind, Place, Remedy, Verdict

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

GUILTY = Diagnosis(
    Cause.IMAGE, images=("/data/a.jpg",), indices=(0,), proven=True, detail="1 NaN or Inf pixel", layer="conv"
)

LOSS = Diagnosis(Cause.LOSS, term="box_loss")
NOTHING = Surroundings()
TRANSIENT, UNKNOWN = Diagnosis(Cause.TRANSIENT), Diagnosis(Cause.UNKNOWN)


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

    def __init__(self, folder, patch, found=GUILTY, **options) -> None:
        self.core, self.asked, self.found = Core(folder), [], found
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

    def diagnose(self, replay, batch, **what) -> Diagnosis:
        self.asked.append(what)
        return self.found

    def step(self, metrics=NAN, verdict=Verdict.BAD_BATCH, row=1, around=NOTHING) -> dict:
        """Let it look into a bad step, the first of its row."""
        return self.investigator.step(metrics, verdict, around, row)

    def another_rank(self, found=None, finite=True, sound=(), **facts) -> None:
        """Let the trainer be rank 0 of two, of which the other gives this account."""
        account = {"place": "window", "loss": 7.0, "images": ["theirs.jpg"], "cause": "unknown", **facts}
        self.core.among(TwoRanks()).objects.append([finite, found and found.record(), "", account, list(sound)])


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return lambda *args, **options: Bench(tmp_path, monkeypatch, *args, **options)


def test_the_facts_of_a_bad_step(bench):
    facts = bench().step()
    for measured in ("loss", "grad_norm", "magnitude"):
        assert math.isnan(facts.pop(measured))
    assert facts == {
        "place": Place.LOSS, "items": {}, "amp_scale": 1.0, "tensors": ["conv.weight"], "tensor_count": 1,
        "cause": Cause.IMAGE, "culprit": GUILTY.sentence(), "detail": "1 NaN or Inf pixel", "proven": True,
        "images": ["/data/a.jpg"], "composite": [], "picture": "", "layer": "conv", "term": "", "failed_in": "fp32",
        "backward": False, "stage": "", "operation": "", "source": "", "source_text": "", "repeats": 0,
    }  # fmt: skip
    Incident(Kind.BAD_BATCH, **facts)


def test_what_is_known_around_a_step_is_known_to_the_diagnosis(bench):
    made = bench()
    made.step(around=Surroundings(usual_loss=2.0, elevated=True))
    around = made.asked[0]["around"]
    assert (around.usual_loss, around.elevated) == (2.0, True)
    assert around.loaded["im_file"] == batch_of(5)["im_file"]
    assert (around.composite, around.plain("a.jpg"), around.others()) == ((), None, None), "there is no data set"
    assert around.preprocess(batch_of(5)).keys() == batch_of(5).keys()


def test_without_a_name_to_blame_it_is_the_whole_batch(bench):
    facts = bench(TRANSIENT).step()
    assert facts["images"] == batch_of(5)["im_file"]


def test_an_outlier_is_measured_by_the_healthy_steps_before(bench):
    made = bench()
    for loss in (1.0, 3.0, 2.0, math.inf):
        made.investigator.observe({"box_loss": loss})
    made.step(FINE, Verdict.DIVERGING)
    [asked] = made.asked
    assert (asked["around"].medians, asked["outlier"], asked["gradients_bad"]) == ({"box_loss": 2.0}, True, True)


INNOCENT = [
    EARLIER,  # the bad one is gone
    replace(GRADIENTS, losses_finite=False),  # it is another rank's
]


@pytest.mark.parametrize(("metrics", "thorough"), [(NAN, True), (GRADIENTS, True), *((one, False) for one in INNOCENT)])
def test_of_an_innocent_batch_only_the_cause_is_asked(bench, metrics, thorough):
    made = bench()
    made.step(metrics)
    [asked] = made.asked
    assert asked.get("cap", Cap()).thorough is thorough
    assert made.investigator.state_dict()["looked"] == thorough, "it costs nothing of the budget"


@pytest.mark.parametrize("metrics", INNOCENT)
def test_an_innocent_batch_that_does_not_fail_is_unknown_and_not_transient(bench, metrics):
    made = bench(TRANSIENT)
    facts = made.step(metrics)
    assert (facts["cause"], "culprit" in facts, facts.get("repeats", 0)) == (Cause.UNKNOWN, False, 0)
    assert made.investigator.state_dict()["transients"] == 0


def test_an_innocent_batch_that_fails_as_well_tells_the_cause(bench):
    assert bench(Diagnosis(Cause.PRECISION, precision="fp16")).step(EARLIER)["cause"] is Cause.PRECISION


def test_gradients_of_one_of_several_batches_are_looked_into_briefly(bench):
    """The loss is fine and the gradients are not: they may be those of any."""
    made = bench(TRANSIENT)
    window = made.core.step.window
    window.open(1, 6)
    window.set_loss(torch.tensor(8.0))
    assert made.step(replace(GRADIENTS, losses=[8.0, 8.0]))["cause"] is Cause.UNKNOWN
    assert not made.asked[0]["cap"].thorough


@pytest.mark.parametrize("before", [GUILTY, TRANSIENT])
def test_the_cause_of_an_earlier_row_is_not_that_of_a_later_one(bench, before):
    made = bench(before)
    made.step()
    made.found = TRANSIENT
    facts = made.step(EARLIER)
    assert (facts["cause"], "culprit" in facts, facts.get("repeats", 0)) == (Cause.UNKNOWN, False, 0)


def test_nor_does_it_share_the_cause_of_a_step_before_it_in_its_row(bench):
    made = bench(LOSS)
    made.step(row=1)
    made.found = TRANSIENT
    assert made.step(EARLIER, row=2)["cause"] is Cause.UNKNOWN


def test_faults_that_do_not_happen_again_are_counted(bench):
    made = bench(TRANSIENT)
    told = [made.step() for _ in range(3)]
    assert [facts["repeats"] for facts in told] == [1, 2, 3]
    assert "3 times so far" in told[2]["culprit"]
    made.found = LOSS
    assert made.step()["repeats"] == 0
    made.found = TRANSIENT
    assert made.step()["repeats"] == 4


@pytest.mark.parametrize("scale", [0.0, math.inf, math.nan])
def test_a_loss_scale_that_is_none_is_to_blame_and_no_batch_is_looked_into(bench, scale):
    made = bench(GUILTY)
    facts = made.step(replace(GRADIENTS, amp_scale=scale))
    assert (facts["cause"], made.asked) == (Cause.TRANSIENT, [])
    assert facts["culprit"].startswith(f"the loss scale was {scale:g}")


def test_a_transient_fault_that_was_not_looked_into_is_none(bench):
    """Each is found out of its own: that the one before did not happen again says nothing of the next."""
    made = bench(TRANSIENT, diagnoses=0)
    assert [made.step(row=row)["repeats"] for row in range(1, 6)] == [1, 2, 3, 4, 5]
    assert len(made.asked) == 5
    made.step(row=6)
    made.core.step.window.release_batch()
    assert made.step(row=7)["cause"] is Cause.UNKNOWN
    assert made.investigator.state_dict()["transients"] == 6


# Budget --------------------------------------------------------------------------------------------------------------


def thorough(made: Bench) -> list[bool]:
    return [asked.get("cap", Cap()).thorough for asked in made.asked]


def test_there_is_a_budget_of_diagnoses_after_which_only_the_cause_is_found(bench):
    made = bench(diagnoses=2)
    assert [made.step()["cause"] for _ in range(4)] == [Cause.IMAGE] * 4
    assert thorough(made) == [True, True, False, False]


@pytest.mark.parametrize("budget", [0, 3])
def test_a_long_row_of_bad_batches_is_looked_into_now_and_then_once_it_is_spent(bench, budget):
    made, rows = bench(LOSS, diagnoses=budget), []
    for row in range(1, 40):
        before = len(made.asked)
        facts = made.step(row=row)
        assert facts["cause"] is Cause.LOSS, "as at the last look"
        assert facts["place"] is Place.LOSS, "what was measured is told all the same"
        looked = len(made.asked) > before
        assert ("culprit" in facts) is looked
        rows += [row] * looked
    assert rows == sorted({*range(1, budget + 1), 1, 2, 4, 8, 16, 32})
    assert thorough(made) == [True] * budget + [False] * (len(rows) - budget)


@pytest.mark.parametrize("cause", [Cause.PRECISION, Cause.TRANSIENT, Cause.UNKNOWN])
def test_what_may_pass_is_looked_into_at_every_step(bench, cause):
    made = bench(Diagnosis(cause), diagnoses=0)
    for row in range(1, 8):
        made.step(row=row)
    assert len(made.asked) == 7


def test_another_model_is_looked_into_again(bench):
    made = bench(LOSS, diagnoses=0)
    for row in (1, 2, 3):
        made.step(row=row)
    made.investigator.forget()
    made.step(row=5)
    assert len(made.asked) == 3


def test_a_batch_that_is_gone_costs_nothing_of_it(bench):
    made = bench(diagnoses=1)
    made.core.step.window.release_batch()
    assert made.step()["cause"] is Cause.UNKNOWN
    assert made.investigator.state_dict()["looked"] == 0


# Ranks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "ours_finite", "theirs", "theirs_finite", "winner"), [
    (None, True, None, True, 0),  # of equals the first
    (None, True, None, False, 1),  # whose loss is not finite
    (GUILTY, True, None, False, 1),
    (None, False, None, True, 0),
    (None, True, GUILTY, True, 1),  # who can name it
    (TRANSIENT, True, GUILTY, True, 1),
    (UNKNOWN, False, GUILTY, False, 1),
    (GUILTY, False, GUILTY, False, 0),
    (GUILTY, False, TRANSIENT, False, 0),
])  # fmt: skip
def test_the_rank_that_knows_best_is_heard(bench, ours, ours_finite, theirs, theirs_finite, winner):
    made = bench(ours)
    made.another_rank(theirs, theirs_finite)
    metrics = GRADIENTS if ours_finite else NAN
    if ours is None:
        made.core.step.window.release_batch()  # it does not look
    facts = made.step(metrics)
    assert facts["rank"] == winner
    assert facts["place"] is (Place.WINDOW if winner else Place.LOSS if not ours_finite else Place.GRADIENTS)
    named = theirs if winner else ours
    assert facts.get("culprit") == (named.sentence() if named else None)


def test_a_lone_process_is_no_rank(bench):
    assert "rank" not in bench().step()


def test_offences_are_counted_on_all_ranks(bench):
    made = bench(Diagnosis(Cause.IMAGE, images=("/data/mine.jpg",), proven=True))
    for _ in range(2):
        made.another_rank(GUILTY)
        made.step()
    assert made.investigator.quarantine.images == ["/data/mine.jpg", "/data/a.jpg"]
    assert [(i.kind, i.images) for i in made.core.incidents()] == [
        (Kind.QUARANTINE, ["/data/mine.jpg"]),
        (Kind.QUARANTINE, ["/data/a.jpg"]),
    ]


def test_a_healthy_step_wipes_out_what_the_loss_made_of_an_image(bench):
    made = bench(Diagnosis(Cause.LOSS, images=("/data/a.jpg",), proven=True))
    made.core.step.window.batches[-1].images = ("/data/a.jpg", "/data/b.jpg")
    for _ in range(3):
        made.step()
        made.investigator.observe({"box_loss": 2.0})
    assert made.investigator.quarantine.images == []
    made.step()
    made.core.step.window.batches[-1].images = ("/data/b.jpg",)
    made.investigator.observe({"box_loss": 2.0})
    made.step()
    assert made.investigator.quarantine.images == ["/data/a.jpg"]


def test_what_was_healthy_on_another_rank_counts_as_well(bench):
    made = bench(Diagnosis(Cause.LOSS, images=("/data/a.jpg",), proven=True))
    made.another_rank()
    made.step()
    made.another_rank(sound=["/data/a.jpg"])
    made.step()
    assert made.investigator.quarantine.images == []


def test_the_quarantine_may_be_off(bench):
    made = bench(quarantine=0)
    for _ in range(3):
        made.step()
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
    made.step()
    state = json.loads(json.dumps(made.investigator.state_dict(), allow_nan=False))
    other = bench(diagnoses=3).investigator
    other.load_state_dict(state)
    assert other.state_dict() == state
    other.step(NAN, Verdict.BAD_BATCH, NOTHING, 1)
    assert other.quarantine.images == ["/data/a.jpg"], "the second offence"


def test_a_resumed_run_knows_which_suspects_were_sound(bench):
    made = bench(Diagnosis(Cause.LOSS, images=("/data/a.jpg",), proven=True))
    made.core.step.window.batches[-1].images = ("/data/a.jpg",)
    made.step()
    made.investigator.observe({"box_loss": 2.0})
    other = bench(made.found).investigator
    other.load_state_dict(json.loads(json.dumps(made.investigator.state_dict(), allow_nan=False)))
    other.step(NAN, Verdict.BAD_BATCH, NOTHING, 1)
    assert other.quarantine.images == []


def test_the_evidence_of_an_earlier_run_goes_with_the_start(tmp_path):
    old = tmp_path / "stability" / "batches" / "e001_b0001.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    Core(tmp_path)
    assert not old.exists()


# On a whole training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(), (nan_batch(),)])
def test_a_window_whose_last_batch_is_innocent_has_an_unknown_cause(tmp_path, before):
    core = Core(tmp_path, isolate="never")
    core.train(2)
    for batch in before:
        core.raw.take(batch)
    core.train(2, start=2)
    core.incidents()
    core.raw.take(nan_batch(), batch_of(1))
    [told] = core.incidents()
    assert (told.kind, told.place, told.cause, told.repeats) == (Kind.BAD_BATCH, Place.WINDOW, "unknown", 0)
    assert told.images == nan_batch()["im_file"]


def test_a_fault_of_the_hardware_is_transient_and_counted(tmp_path):
    core = Core(tmp_path)
    forward, broken = core.raw.model.forward, []

    def flickers(batch):
        loss, items = forward(batch)
        return loss * (math.nan if broken and broken.pop() else 1.0), items

    core.raw.model.forward = flickers
    for seed in range(4):
        broken.append(True)
        core.raw.take(batch_of(seed))
        core.raw.take(batch_of(seed + 10))
    told = core.incidents()
    assert [(one.cause, one.repeats) for one in told] == [("transient", count) for count in range(1, 5)]
    assert "check the hardware" in told[-1].culprit
