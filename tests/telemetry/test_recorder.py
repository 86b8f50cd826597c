"""The recorder: whole lines at any moment, strict JSON, nothing lost on resume."""

from __future__ import annotations

import csv
import json
import math
import pickle

import pytest

from yolo_gradsafe.telemetry import Incident, Recorder, StepRow


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
    recorder = Recorder(tmp_path)
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
            "images",
        ]
    )


def test_rows_are_held_back_until_enough_have_gathered(tmp_path):
    recorder = Recorder(tmp_path, flush_steps=3, flush_seconds=1e9)
    recorder.step(row(1))
    recorder.step(row(2))
    assert not recorder.paths.steps.exists()
    recorder.step(row(3))
    assert len(read(recorder)) == 3


def test_rows_are_held_back_for_some_seconds_only(tmp_path):
    recorder = Recorder(tmp_path, flush_steps=1000, flush_seconds=1e-9)
    recorder.step(row(1))
    assert len(read(recorder)) == 1


def test_an_incident_is_on_disk_at_once_with_the_rows_before_it(tmp_path):
    recorder = Recorder(tmp_path, flush_seconds=1e9)
    recorder.step(row(1, loss=math.nan, images=['a "quoted", name.jpg']))
    recorder.incident(Incident("bad_batch", 1, 1, 1, "seen", "done", loss=math.nan, grad_norm=math.inf))
    assert json.loads(read(recorder)[0]["images"]) == ['a "quoted", name.jpg']
    line = recorder.paths.incidents.read_text()
    incident = json.loads(line, parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))
    assert (incident["loss"], incident["grad_norm"], incident["kind"]) == ("nan", "inf", "bad_batch")
    assert incident["time"]


def test_a_new_run_in_an_old_folder_starts_empty(tmp_path):
    old = Recorder(tmp_path)
    old.step(row(1))
    old.incident(Incident("bad_batch", 1, 1, 1, "seen", "done"))
    new = Recorder(tmp_path)
    assert new.steps == 0
    assert not new.paths.steps.exists()
    assert not new.paths.incidents.exists()


@pytest.mark.parametrize("cut", [0, 1, 7, 30])
def test_a_resumed_run_goes_on_after_what_a_crash_left(tmp_path, cut):
    crashed = Recorder(tmp_path)
    for step in (1, 2, 3):
        crashed.step(row(step))
    crashed.flush()
    data = crashed.paths.steps.read_bytes()
    crashed.paths.steps.write_bytes(data[: len(data) - cut])
    resumed = Recorder(tmp_path, resume=True)
    assert resumed.steps == (3 if cut == 0 else 2)
    resumed.step(row(resumed.steps + 1))
    resumed.flush()
    assert [int(line["step"]) for line in read(resumed)] == list(range(1, resumed.steps + 1))


def test_it_pickles(tmp_path):
    recorder = pickle.loads(pickle.dumps(Recorder(tmp_path)))
    recorder.step(row(1))
    recorder.flush()
    assert len(read(recorder)) == 1
