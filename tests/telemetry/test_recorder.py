"""The recorder: whole lines at any moment, strict JSON, nothing lost on resume."""

from __future__ import annotations

import csv
import json
import math
import pickle

import pytest

from yolo_gradsafe.telemetry import Incident, Recorder, StepRow
from yolo_gradsafe.telemetry.files import read_states
from yolo_gradsafe.telemetry.schema import LayerRow


def row(step: int, **changes) -> StepRow:
    values = {
        "epoch": 1,
        "step": step,
        "batch": step,
        "lr": 0.01,
        "lr_factor": 1.0,
        "loss": 2.0,
        "grad_norm": 3.0,
        "threshold": 10.0,
        "clip_scale": 1.0,
        "amp_scale": 1.0,
        "verdict": "ok",
        "items": {"box_loss": 1.0, "cls_loss": 1.0},
    }
    return StepRow(**{**values, **changes})


def read(recorder: Recorder) -> list[dict[str, str]]:
    with recorder.paths.steps.open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_are_in_the_stated_order(tmp_path):
    recorder = Recorder(tmp_path).start()
    recorder.step(row(1))
    recorder.flush()
    assert list(read(recorder)[0]) == (
        [
            "epoch",
            "step",
            "batch",
            "lr",
            "lr_factor",
            "loss",
            "box_loss",
            "cls_loss",
            "grad_norm",
            "threshold",
            "clip_scale",
            "amp_scale",
            "verdict",
            "update_ratio",
            "images",
        ]
    )


def test_rows_are_held_back_until_enough_have_gathered(tmp_path):
    recorder = Recorder(tmp_path, flush_steps=3, flush_seconds=1e9).start()
    recorder.step(row(1))
    recorder.step(row(2))
    assert not recorder.paths.steps.exists()
    recorder.step(row(3))
    assert len(read(recorder)) == 3


def test_rows_are_held_back_for_some_seconds_only(tmp_path):
    recorder = Recorder(tmp_path, flush_steps=1000, flush_seconds=1e-9).start()
    recorder.step(row(1))
    assert len(read(recorder)) == 1


def test_an_incident_is_on_disk_at_once_with_the_rows_before_it(tmp_path):
    recorder = Recorder(tmp_path, flush_seconds=1e9).start()
    recorder.step(row(1, loss=math.nan, images=['a "quoted", name.jpg']))
    recorder.incident(Incident("bad_batch", 1, 1, 1, "seen", "done", loss=math.nan, grad_norm=math.inf))
    assert json.loads(read(recorder)[0]["images"]) == ['a "quoted", name.jpg']
    line = recorder.paths.incidents.read_text()
    incident = json.loads(line, parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))
    assert (incident["loss"], incident["grad_norm"], incident["kind"]) == ("nan", "inf", "bad_batch")
    assert incident["time"]


def test_a_new_run_in_an_old_folder_starts_empty(tmp_path):
    old = Recorder(tmp_path).start()
    old.step(row(1))
    old.incident(Incident("bad_batch", 1, 1, 1, "seen", "done"))
    new = Recorder(tmp_path).start()
    assert new.steps == 0
    assert not new.paths.steps.exists()
    assert not new.paths.incidents.exists()


@pytest.mark.parametrize("cut", [0, 1, 7, 30])
def test_a_resumed_run_goes_on_after_what_a_crash_left(tmp_path, cut):
    crashed = Recorder(tmp_path).start()
    for step in (1, 2, 3):
        crashed.step(row(step))
    crashed.flush()
    data = crashed.paths.steps.read_bytes()
    crashed.paths.steps.write_bytes(data[: len(data) - cut])
    resumed = Recorder(tmp_path).start(resume=True)
    assert resumed.steps == (3 if cut == 0 else 2)
    resumed.step(row(resumed.steps + 1))
    resumed.flush()
    assert [int(line["step"]) for line in read(resumed)] == list(range(1, resumed.steps + 1))


def test_a_resumed_run_drops_what_is_trained_once_more(tmp_path):
    first = Recorder(tmp_path).start()
    for epoch in (1, 2, 3):
        first.step(row(epoch, epoch=epoch, images=["a, b.jpg"]))
        first.incident(Incident("bad_batch", epoch, epoch, 1, "seen", "done"))
        first.state(epoch, {"epoch": epoch})
    assert read_states(first.paths.state) == {2: {"epoch": 2}, 3: {"epoch": 3}}
    resumed = Recorder(tmp_path).start(resume=True, done=2)
    assert resumed.steps == 2
    assert [line["epoch"] for line in read(resumed)] == ["1", "2"]
    assert [json.loads(line)["epoch"] for line in resumed.paths.incidents.read_text().splitlines()] == [1, 2]
    resumed.state(3, {"epoch": "once more"})
    assert read_states(first.paths.state) == {2: {"epoch": 2}, 3: {"epoch": "once more"}}


def test_a_header_that_was_cut_off_is_written_again(tmp_path):
    first = Recorder(tmp_path).start()
    first.paths.steps.write_text("epoch,st")
    first.paths.layers.write_text("epo")
    resumed = Recorder(tmp_path).start(resume=True, done=0)
    resumed.step(row(1))
    resumed.flush()
    resumed.layers([LayerRow(1, "model.0", "backbone", 1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1)])
    assert [line["step"] for line in read(resumed)] == ["1"]
    assert resumed.paths.layers.read_text().startswith("epoch,layer,")


def test_a_file_that_cannot_be_written_is_told_once_and_its_lines_wait(tmp_path):
    told: list[str] = []
    recorder = Recorder(tmp_path, tell=told.append).start()
    recorder.paths.steps.mkdir()
    for step in (1, 2):
        recorder.step(row(step))
        recorder.flush()
    recorder.incident(Incident("bad_batch", 1, 2, 2, "seen", "done"))
    assert told == [f"{recorder.paths.steps} cannot be written, training continues: Is a directory"]
    assert recorder.files.waiting == 2
    recorder.paths.steps.rmdir()
    recorder.flush()
    assert [line["step"] for line in read(recorder)] == ["1", "2"]
    assert (recorder.files.waiting, recorder.files.lost) == (0, 0)


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "stability").write_text("a file")
    told: list[str] = []
    for resume in (False, True):
        recorder = Recorder(tmp_path, tell=told.append).start(resume=resume, done=1)
        recorder.step(row(1))
        recorder.incident(Incident("bad_batch", 1, 1, 1, "seen", "done"))
        recorder.options("clip: {}")
        recorder.state(1, {})
    assert len(told) == 2


def test_it_pickles(tmp_path):
    recorder = pickle.loads(pickle.dumps(Recorder(tmp_path).start()))
    recorder.step(row(1))
    recorder.flush()
    assert len(read(recorder)) == 1
