"""A run that is killed loses at most what was not flushed, and can be reported on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import ultralytics

from tests.arm import Arm
from yolo_gradsafe.report import build

TEARDOWN = tuple(map(int, ultralytics.__version__.split(".")[:3])) >= (8, 4, 177)
"""Whether Ultralytics runs its teardown after an exception, too; before, nobody tells the guard of one."""


def test_kill_9_in_the_middle_of_an_epoch(train, drawn, tmp_path):
    code = (
        "import os, signal\n"
        "def die(trainer):\n"
        "    if trainer.epoch == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "callbacks.setdefault('on_train_batch_end', []).append(die)\n"
    )
    arm = Arm(str(drawn["detect"]), guard={"telemetry": {"flush_steps": 1}}, nan_pixel=[(1, 2)], code=code)
    with pytest.raises(AssertionError, match="the arm died"):
        train(arm)
    run = tmp_path / "run" / "train"
    done = subprocess.run(
        [sys.executable, "-m", "yolo_gradsafe", "report", str(run)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "so far" in done.stdout
    summary = json.loads((run / "stability.json").read_text())
    assert summary["status"] == "unfinished"
    assert summary["steps"]["total"] == 3
    assert [incident["kind"] for incident in summary["incidents"]] == ["bad_batch"]


def test_a_training_that_raises_is_reported_as_failed(train, drawn):
    code = (
        "def fail(trainer):\n"
        "    if trainer.epoch == 1: raise RuntimeError('planted failure')\n"
        "callbacks.setdefault('on_train_epoch_start', []).append(fail)\n"
    )
    result = train(Arm(str(drawn["detect"]), guard={}, code=code))
    assert result.error == "RuntimeError: planted failure"
    summary = build(result.run)
    assert summary.status == ("failed" if TEARDOWN else "unfinished")
    assert ("planted failure" in summary.headline + summary.run.error) == TEARDOWN


def test_a_training_that_is_stopped_early_is_reported(train, drawn):
    code = (
        "def stop(trainer):\n"
        "    if trainer.epoch == 1: trainer.stop = True\n"
        "callbacks.setdefault('on_train_batch_end', []).append(stop)\n"
    )
    result = train(Arm(str(drawn["detect"]), guard={}, code=code))
    assert result.error == ""
    assert build(result.run).status == "finished"
