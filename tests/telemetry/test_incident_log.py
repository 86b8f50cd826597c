"""Incidents: in which order, with which place in the training, and what of them is shown."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from yolo_gradsafe.telemetry.incident_log import IncidentLog, Progress
from yolo_gradsafe.telemetry.schema import Incident, Kind, Place, Remedy


class Bench:
    """A log, what it recorded, and what it showed."""

    def __init__(self) -> None:
        self.progress, self.shown, self.recorded = Progress(), [], []
        recorder = SimpleNamespace(incident=self.recorded.append)
        self.log = IncidentLog(self.progress, recorder, self.shown.append)


def test_epochs_batches_and_steps_are_counted():
    progress = Progress()
    for epoch in (1, 2):
        progress.begin_epoch(epoch)
        for _ in range(3):
            progress.begin_batch()
            progress.begin_step()
    assert (progress.epoch, progress.batch, progress.step) == (2, 3, 6)


def test_an_incident_knows_where_the_training_stood_when_it_was_noted():
    bench = Bench()
    bench.progress.epoch, bench.progress.batch, bench.progress.step = 3, 14, 159
    bench.log.log(Kind.NATIVE_RECOVERY)
    bench.progress.begin_epoch(4)
    bench.log.flush()
    [told] = bench.recorded
    assert (told.epoch, told.batch, told.step) == (3, 14, 159)


def test_what_is_known_of_its_place_wins():
    bench = Bench()
    bench.progress.batch = 14
    bench.log.log(Kind.ISOLATED, batch=12)
    bench.log.flush()
    assert bench.recorded[0].batch == 12


def test_a_steps_own_incident_comes_before_what_was_done_about_it():
    bench = Bench()
    bench.log.log(Kind.ROLLBACK, remedies=(Remedy.ROLLED_BACK,), snapshot=3, undone=2)
    bench.log.log(Kind.LR_BACKOFF, remedies=(Remedy.LR_LOWERED,), lr_factor=0.1)
    bench.log.flush(first=Incident(Kind.DIVERGING, loss=9.0))
    assert [told.kind for told in bench.recorded] == [Kind.DIVERGING, Kind.ROLLBACK, Kind.LR_BACKOFF]


def test_nothing_is_written_before_it_is_flushed_and_nothing_twice():
    bench = Bench()
    bench.log.log(Kind.NATIVE_RECOVERY)
    assert not bench.recorded
    bench.log.flush()
    bench.log.flush()
    assert len(bench.recorded) == bench.log.written == 1


def test_each_has_its_sentences():
    bench = Bench()
    bench.log.log(
        Kind.HEALED, place=Place.STATE, remedies=(Remedy.REPAIRED,), tensors=["w"], tensor_count=1, snapshot=7
    )
    bench.log.flush()
    [told] = bench.recorded
    assert told.message == "values were not finite or far too large: w"
    assert told.action == "restored these values from the snapshot of step 7"


def test_the_console_warns_once_a_kind():
    bench = Bench()
    bench.progress.epoch, bench.progress.batch = 2, 5
    for kind in (Kind.NATIVE_RECOVERY, Kind.NATIVE_RECOVERY, Kind.STALLED):
        bench.log.log(kind, stages=["neck"])
    bench.log.flush()
    first, second = bench.shown
    assert first == (
        "epoch 2, batch 5: the epoch ended in NaN; Ultralytics loaded last.pt and repeats the epoch. "
        "Further incidents of this kind are only recorded."
    )
    assert "the gradients of neck have vanished" in second
    assert len(bench.recorded) == 3


DIVERGED = Incident(
    Kind.DIVERGING,
    loss=9.0,
    remedies=(Remedy.SKIPPED, Remedy.ROLLED_BACK, Remedy.LR_LOWERED),
    snapshot=3,
    undone=2,
    lr_factor=0.1,
)


def diverge(bench: Bench) -> None:
    bench.log.log(Kind.ROLLBACK, remedies=(Remedy.ROLLED_BACK,), snapshot=3, undone=2)
    bench.log.log(Kind.LR_BACKOFF, remedies=(Remedy.LR_LOWERED,), lr_factor=0.1)
    bench.log.flush(first=DIVERGED)


def test_one_event_is_one_warning_and_each_rollback_is_told():
    bench = Bench()
    diverge(bench)
    diverge(bench)
    assert len(bench.shown) == 2
    for words in bench.shown:
        assert "rolled back to the snapshot of step 3" in words
        assert "lowered the learning rate" in words
        assert "only recorded" not in words
    bench.log.log(Kind.LR_BACKOFF, remedies=(Remedy.LR_LOWERED,), lr_factor=0.01)
    bench.log.flush()
    assert len(bench.shown) == 2, "its kind was told"


def test_a_remedy_that_is_new_is_told_where_its_step_is_of_a_known_kind():
    bench = Bench()
    bench.log.flush(first=Incident(Kind.BAD_BATCH, remedies=(Remedy.SKIPPED,)))
    bench.log.log(Kind.PRECISION, remedies=(Remedy.PRECISION_RAISED,), precision="bf16", precision_before="fp16")
    bench.log.flush(
        first=Incident(Kind.BAD_BATCH, remedies=(Remedy.SKIPPED, Remedy.PRECISION_RAISED), precision="bf16")
    )
    assert len(bench.shown) == 2
    assert "bf16" in bench.shown[1]


def test_the_culprit_is_named_with_it():
    bench = Bench()
    bench.log.flush(first=Incident(Kind.BAD_BATCH, place=Place.LOSS, culprit="a.jpg holds 1 NaN or Inf pixel"))
    assert "(a.jpg holds 1 NaN or Inf pixel)" in bench.shown[0]


def test_a_rank_that_writes_no_files_counts_and_warns_all_the_same():
    shown: list[str] = []
    log = IncidentLog(Progress(), None, shown.append)
    log.log(Kind.NATIVE_RECOVERY)
    log.flush()
    log.internal_error("clip", "ValueError: planted")
    assert (log.written, len(shown)) == (1, 1)


def test_a_fault_of_the_plugin_is_recorded_at_once_and_counted_as_no_incident():
    bench = Bench()
    bench.progress.step = 9
    bench.log.internal_error("clip", "Traceback ...\n  ...\nValueError: planted\n")
    [told] = bench.recorded
    assert (told.kind, told.step, told.detail) == (Kind.INTERNAL_ERROR, 9, "clip: ValueError: planted")
    assert (told.message, told.action) == ("could not clip: ValueError: planted", "logged; training continues")
    assert (bench.log.written, bench.shown) == (0, [])


def test_a_recorder_that_is_broken_is_no_second_fault():
    def fails(incident: Incident) -> None:
        raise OSError("disk full")

    shown: list[str] = []
    IncidentLog(Progress(), SimpleNamespace(incident=fails), shown.append).internal_error("clip", "ValueError: planted")
    assert shown == ["the fault could not be recorded either: disk full"]


@pytest.mark.parametrize("kind", list(Kind))
def test_an_incident_of_every_kind_has_its_sentences(kind):
    bench = Bench()
    bench.log.log(kind, place=Place.STATE, detail="something", remedies=(Remedy.SKIPPED,))
    bench.log.flush()
    [told] = bench.recorded
    assert told.message or kind is Kind.QUARANTINE
    assert told.action
