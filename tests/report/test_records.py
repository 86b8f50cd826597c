"""Records as a crash leaves them, and the paths by which a run can be named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.runs import INFO, bad, incident, row, write
from yolo_gradsafe.report.parts import ReportError
from yolo_gradsafe.report.records import loss_items, read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.telemetry import Recorder, RunPaths


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "train", 30, lambda step: bad(step) if step == 5 else row(step), [incident(5), incident(6)])


def cut(path: Path, characters: int) -> None:
    path.write_bytes(path.read_bytes()[:-characters])


@pytest.mark.parametrize("name", ["", "stability", "stability/steps.csv", "stability/run.json", "results.csv"])
def test_a_run_is_known_by_its_folder_or_a_file_in_it(run, name):
    (run / "results.csv").touch()
    assert summarize(run / name).steps.total == 30


def test_a_run_is_known_from_within(run, monkeypatch):
    monkeypatch.chdir(run / "stability")
    assert summarize(Path()).steps.total == 30


def test_a_run_may_be_called_stability(tmp_path):
    assert summarize(write(tmp_path / "stability", 3)).steps.total == 3


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_folder_without_records_is_named(run, name):
    (run / "empty").mkdir()
    with pytest.raises(ReportError, match=name):
        summarize(run / name)


def test_running_or_killed_run(tmp_path):
    summary = summarize(write(tmp_path, 12, info=None, options=None))
    assert (summary.status, summary.health, summary.options) == ("unfinished", "healthy", {})
    assert summary.headline == "Healthy so far: 12 steps, none skipped, 0.0 % clipped."
    assert summary.files == ["stability/steps.csv"]


def test_run_without_steps(tmp_path):
    summary = summarize(write(tmp_path, 0))
    assert summary.headline == "No step was recorded."
    assert summary.files == ["stability/run.json", "stability/options.yaml"]


def test_every_prefix_of_the_steps_can_be_read(tmp_path):
    run = write(tmp_path, 3, lambda step: bad(step) if step == 2 else row(step))
    path = RunPaths(run).steps
    text = path.read_bytes()
    for length in range(len(text) + 1):
        path.write_bytes(text[:length])
        assert read_steps(RunPaths(run)).height == max(0, text[:length].count(b"\n") - 1)


def test_half_a_line_is_left_out(run):
    paths = RunPaths(run)
    cut(paths.steps, 20)
    cut(paths.incidents, 20)
    summary = summarize(run)
    assert (summary.steps.total, len(summary.incidents)) == (29, 1)


def test_half_a_line_costs_a_resumed_run_no_more_than_itself(run):
    paths = RunPaths(run)
    cut(paths.steps, 20)
    recorder = Recorder(run).start(resume=True)
    for step in range(31, 41):
        recorder.step(row(step))
    recorder.flush()
    assert summarize(run).steps.total == 39


def test_an_open_quote_does_not_swallow_what_follows(run):
    path = RunPaths(run).steps
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[5] = lines[5][: lines[5].index('"') + 4]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert summarize(run).steps.total == 29


@pytest.mark.parametrize("text", ["", "{", "null", '{"batch": "many"}', "\x00\x00"])
def test_spoilt_run_json_is_as_good_as_none(run, text):
    RunPaths(run).info.write_text(text, encoding="utf-8")
    assert summarize(run).status == "unfinished"


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "just text"])
def test_spoilt_options_are_as_good_as_none(run, text):
    RunPaths(run).options.write_text(text, encoding="utf-8")
    assert summarize(run).options == {}


def test_bytes_that_are_no_text_cost_their_line_only(run):
    path = RunPaths(run).steps
    path.write_bytes(path.read_bytes() + b"\xff\xfe\x00\x00\n")
    assert summarize(run).steps.total == 30


def test_a_table_of_something_else_is_refused(run):
    RunPaths(run).steps.write_text("epoch,time\n1,2\n", encoding="utf-8")
    with pytest.raises(ReportError, match=r"steps\.csv.*loss"):
        summarize(run)


def test_loss_items_are_those_of_the_task(tmp_path):
    run = write(tmp_path, 3, lambda step: row(step, items={"giou_loss": 1.0, "l1_loss": float("nan")}))
    steps = read_steps(RunPaths(run))
    assert loss_items(steps) == ["giou_loss", "l1_loss"]
    assert steps["giou_loss"].to_list() == [1.0, 1.0, 1.0]


def test_fields_of_a_later_version_are_ignored(run):
    path = RunPaths(run).incidents
    entry = {**json.loads(path.read_text(encoding="utf-8").splitlines()[0]), "colour": "red"}
    path.write_text(json.dumps(entry) + "\n", encoding="utf-8")
    assert len(summarize(run).incidents) == 1


def test_a_file_name_that_is_no_unicode_keeps_its_incident(tmp_path):
    run = write(tmp_path, 9, incidents=[incident(3, images=["/data/\udcff.jpg"])])
    summary = summarize(run)
    assert summary.incidents[0].images == ["/data/?.jpg"]
    summary.save(run / "stability.json")
    assert INFO.model in (run / "stability.json").read_text(encoding="utf-8")
