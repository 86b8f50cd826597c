"""A running training on a terminal."""

from __future__ import annotations

import io
import math
import os
import time
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from rich.console import Console

from tests.report import scenes
from tests.report.runs import INFO, incident, row, write
from yolo_gradsafe.report.live import look, sparkline
from yolo_gradsafe.report.parts import ReportError
from yolo_gradsafe.telemetry import Recorder, RunPaths


def shown(run, width=110):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(look(RunPaths(run)))
    return console.export_text()


def test_healthy_run(tmp_path):
    text = shown(scenes.healthy(tmp_path / "train"))
    assert text.startswith("train  Healthy: 300 steps, none skipped.")
    assert "finished" in text
    assert "gradient norm" in text
    assert "300 applied, 3 clipped (1.0 %), 0 skipped" in text


def test_sick_run_shows_the_last_incidents_and_advice(tmp_path):
    text = shown(scenes.sick(tmp_path))
    assert "36 incidents before these" in text
    assert text.count("epoch 4") >= 4
    assert "Advice: Lower the learning rate.  lr0=0.003" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("name", ["crashed", "empty"])
def test_runs_that_did_not_finish(tmp_path, name):
    text = shown(getattr(scenes, name)(tmp_path))
    assert "so far" in text
    assert "last record 0 s ago" in text or "no step yet" in text


def test_a_silent_run_may_have_been_killed(tmp_path):
    run = scenes.crashed(tmp_path)
    past = time.time() - 3600
    os.utime(RunPaths(run).steps, (past, past))
    assert "last record 60 min ago: killed?" in shown(run)


def test_what_is_left_is_estimated(tmp_path):
    begun = datetime.now().astimezone() - timedelta(minutes=35)
    info = replace(INFO, started=begun.isoformat(), finished="", epochs=8)
    assert "about 45 min left" in shown(write(tmp_path, 40, info=info))


def test_it_follows_the_records(tmp_path):
    paths = RunPaths(write(tmp_path, 30, info=None))
    assert look(paths).summary.steps.total == 30
    recorder = Recorder(tmp_path).start(resume=True)
    recorder.step(row(31))
    recorder.flush()
    assert look(paths).summary.steps.total == 31
    assert not look(paths).over
    recorder.info(INFO)
    assert look(paths).over


def test_text_from_outside_is_neither_markup_nor_steers(tmp_path):
    hostile = incident(3, message="[red]\x1b[31mboo[/red]", action="[/bold]")
    text = shown(write(tmp_path, 9, incidents=[hostile]))
    assert "[red]\\x1b[31mboo[/red]" in text


def test_newer_version(tmp_path):
    with pytest.raises(ReportError, match="newer gradsafe"):
        look(RunPaths(scenes.newer(tmp_path)))


def test_sparkline():
    assert sparkline(np.array([])) == ""
    assert sparkline(np.array([1.0, 10, 100])) == "▁▅█"
    assert sparkline(np.array([1.0, math.nan, 100])) == "▁ █"
    assert sparkline(np.array([0.0, 5, 10]), log=False) == "▁▅█"
    assert sparkline(np.full(9, math.nan)) == " " * 9
    assert sparkline(np.full(3, 2.0)) == "▁▁▁"
    assert len(sparkline(np.arange(1.0, 100_000))) <= 56
