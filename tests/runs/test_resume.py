"""A run that is killed and resumed: its records go on without a gap or a twin, and it trains as stock's resume does.

Stock's own resume equals the uninterrupted run nowhere: the weights come back from the half-precision EMA, and random
numbers and the order of the data start anew. So a resumed guarded run is held against a resumed stock run, bit for bit,
and its records against what a run that was never interrupted has: a row for each of its steps, once.
"""

from __future__ import annotations

import json

import pytest

from tests.arm import Arm, Result, run_arm
from tests.runs.variants import TINY

KILL = """
import os, signal
def die(trainer, *_):
    if trainer.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""
MOMENTS = {
    "in the middle of an epoch": "callbacks['on_train_batch_end'] = [die]",
    "during validation": "callbacks['on_train_epoch_end'] = [die]",
    "before the checkpoint": "import ultralytics.engine.trainer as m\nm.BaseTrainer.save_model, save = "
    "(lambda t: die(t) or save(t)), m.BaseTrainer.save_model",
    "right after the checkpoint": "callbacks['on_model_save'] = [die]",
}
"""Where the second epoch of three is cut off. The guard's callbacks run before these."""

GUARD = {
    "clip": {"mode": "percentile", "warmup_steps": 100, "max_norm": 10.0},
    "telemetry": {"flush_steps": 1000, "flush_seconds": 1000.0, "update_ratio_steps": 2},
}
"""Nothing is written in passing: what is on the disk at the end of an epoch was put there then."""


def killed(arm: Arm, folder, moment: str) -> Arm:
    """Train until the process is killed, and return the arm that resumes."""
    arm.code += KILL + MOMENTS[moment]
    with pytest.raises(AssertionError, match="the arm died"):
        run_arm(arm, folder)
    last = folder / "train" / "weights" / "last.pt"
    return Arm(arm.data, str(last), {"resume": True}, guard=arm.guard)


def places(result: Result) -> list[tuple[int, int, int]]:
    """Return epoch, batch and step of every row."""
    return [(int(row["epoch"]), int(row["batch"]), int(row["step"])) for row in result.steps]


def state(result: Result) -> dict:
    """Return what a resumed run would go on from, by epoch."""
    return json.loads((result.run / "stability" / "state.json").read_text())["epochs"]


@pytest.fixture
def arm(drawn, tmp_path):
    """Make the arm of a tiny model on drawn data: two batches, and steps, an epoch."""
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(TINY)
    return lambda **values: Arm(str(drawn["detect"]), str(tiny), **values)


PLACES = [(epoch, batch, 2 * epoch + batch - 2) for epoch in (1, 2, 3) for batch in (1, 2)]
"""Epoch, batch and step of every row of a whole run."""


@pytest.mark.parametrize(
    "moment",
    [pytest.param(moment, marks=[] if moment == "during validation" else pytest.mark.slow) for moment in MOMENTS],
)
def test_records_have_no_gap_and_no_twin(arm, tmp_path, moment):
    """One batch is NaN in the first epoch, and one in the second, which is cut off."""
    again = killed(arm(guard=GUARD, nan_pixel=[(1, 2), (2, 1)]), tmp_path, moment)
    before = json.loads((tmp_path / "train" / "stability" / "state.json").read_text())["epochs"]
    again.nan_pixel = [(2, 1)]
    resumed = run_arm(again, tmp_path)
    assert resumed.error == ""
    assert places(resumed) == PLACES
    incidents = [(i["kind"], i["epoch"], i["batch"]) for i in resumed.incidents()]
    assert incidents == [("bad_batch", 1, 2), ("bad_batch", 2, 1)]
    header, *layers = (resumed.run / "stability" / "layers.csv").read_text().splitlines()
    assert header.startswith("epoch,layer")
    names = [line.split(",")[:2] for line in layers]
    assert names == [[str(epoch), name] for epoch in (1, 2, 3) for _, name in names[: len(names) // 3]]
    pictures = sorted(p.name for p in (resumed.run / "stability" / "batches").iterdir())
    assert pictures == ["e001_b0002.jpg", "e002_b0001.jpg"]

    done = 2 if moment == "right after the checkpoint" else 1
    assert str(done) in before
    after = state(resumed)
    assert list(after) == ["2", "3"]
    norms = after["3"]["clipper"]["warmup"]
    assert norms[:done] == before[str(done)]["clipper"]["warmup"], "the clipper went on"
    assert len(norms) == 4, "six steps, two of them bad"
    assert after["3"]["forensics"]["looked"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in the middle of an epoch", "right after the checkpoint"])
def test_a_resumed_run_is_stocks_resumed_run(arm, tmp_path, moment):
    results = []
    for name, guard in (("stock", None), ("guarded", {})):
        again = killed(arm(guard=guard), tmp_path / name, moment)
        results.append(run_arm(again, tmp_path / name))
    stock, guarded = results
    assert stock.error == guarded.error == ""
    assert guarded.digests == stock.digests
    assert guarded.losses() == stock.losses()


CLIMB = """
def climb(trainer):
    recovery = guard._session(trainer).step.recovery
    if trainer.epoch == 0 and not trainer.resume:
        recovery.rate._lr.lower()
        recovery._rollbacks, recovery._rolled_back_at, recovery._skipped = 7, 2, 3
callbacks['on_train_batch_end'] = [climb]
"""


@pytest.mark.slow
def test_the_ladder_is_where_it_was(arm, tmp_path):
    """The learning rate was lowered in the first epoch, and the budgets were in part spent."""
    resumed = run_arm(killed(arm(guard={}, code=CLIMB), tmp_path, "during validation"), tmp_path)
    assert resumed.error == ""
    assert {row["lr_factor"] for row in resumed.steps if row["epoch"] != "1"} == {"0.01"}
    recovery = state(resumed)["2"]["recovery"]
    assert (recovery["rollbacks"], recovery["rolled_back_at"]) == (7, 2)
    assert recovery["lr"]["ceiling"] == pytest.approx(0.03), "a rate that diverged twice is not gone back to"
    assert recovery["lr"]["healthy"] == 2, "the epoch that was cut does not count"


@pytest.mark.slow
def test_an_older_checkpoint_takes_the_records_back_with_it(arm, tmp_path):
    """``epoch0.pt``, after the run has ended: what came later is trained, and recorded, once more."""
    first = run_arm(arm(args={"save_period": 1}, guard=GUARD), tmp_path)
    again = arm(args={"resume": True}, guard=GUARD)
    again.model = str(first.run / "weights" / "epoch0.pt")
    resumed = run_arm(again, tmp_path)
    assert resumed.error == ""
    assert places(resumed) == places(first) == PLACES
    assert "has no state of epoch 1 or earlier; clipping and recovery start from the beginning" in resumed.log


@pytest.mark.slow
def test_a_guarded_run_can_be_resumed_without_the_guard_and_with_it_again(arm, tmp_path):
    again = killed(arm(args={"epochs": 4}, guard=GUARD), tmp_path, "right after the checkpoint")
    again.guard = None
    again.code = KILL.replace("== 1", "== 2") + MOMENTS["right after the checkpoint"]
    with pytest.raises(AssertionError, match="the arm died"):
        run_arm(again, tmp_path)
    again.code, again.guard = "", GUARD
    resumed = run_arm(again, tmp_path)
    assert resumed.error == ""
    assert [place[::2] for place in places(resumed)] == [(1, 1), (1, 2), (2, 3), (2, 4), (4, 5), (4, 6)]
    assert [row["epoch"] for row in resumed.results] == ["1", "2", "3", "4"]
    assert [bool(row["gradsafe/grad_norm"]) for row in resumed.results] == [True, True, False, True]
