"""A fault of the plugin never kills a run: it is in the log once, and in the summary."""

from __future__ import annotations

import json

import pytest

from tests.arm import Arm, run_arm

# Each breaks one part of the plugin, for good, before training starts.
BROKEN = {
    "recorder": "import yolo_gradsafe.telemetry.recorder as m\n"
    "def broken(self, row): raise OSError('disk full')\n"
    "m.Recorder.step = broken",
    "layers": "import yolo_gradsafe.telemetry.recorder as m\n"
    "def broken(self, rows): raise OSError('disk full')\n"
    "m.Recorder.layers = broken",
    "clipper": "import yolo_gradsafe.clipping.rules.norm as m\n"
    "def broken(self, *_): raise ZeroDivisionError('planted')\n"
    "m.NormClipper.clip_ = broken",
    "trend": "import yolo_gradsafe.judge.loss_trend as m\n"
    "def broken(self, *_): raise RuntimeError('planted')\n"
    "m.LossTrendMonitor.observe = broken",
    "snapshots": "import yolo_gradsafe.recovery.snapshot as m\n"
    "def broken(self, *_): raise MemoryError('planted')\n"
    "m.Snapshot.take = broken",
    "data check": "import yolo_gradsafe.data as m\n"
    "def broken(*_, **__): raise RuntimeError('planted')\n"
    "m.quick_check = broken",
    "meter": "import yolo_gradsafe.gradients.norms as m\n"
    "def broken(self, *_): raise RuntimeError('planted')\n"
    "m.GradientMeter.measure = broken",
}


@pytest.fixture(scope="module")
def stock(drawn, made_once):
    """The training without the plugin."""
    return made_once("stock", lambda folder: run_arm(Arm(str(drawn["detect"])), folder / "run"))


@pytest.mark.parametrize("part", BROKEN)
def test_the_training_goes_on_as_stock(train, drawn, stock, part):
    broken = train(Arm(str(drawn["detect"]), guard={}, code=BROKEN[part]), "broken")
    assert broken.error == ""
    assert broken.digests == stock.digests
    assert broken.losses() == stock.losses()
    assert all(row["gradsafe/skipped"] == "0" for row in broken.results), "results.csv stays rectangular"
    assert broken.log.count("internal error, training continues") == 1
    summary = json.loads((broken.run / "stability.json").read_text())
    assert [incident["kind"] for incident in summary["incidents"]] == ["internal_error"]


def test_a_folder_that_cannot_be_written_leaves_the_training_alone(train, drawn):
    code = (
        "import yolo_gradsafe.build as m\ndef broken(*_, **__): raise PermissionError('read-only')\nm.Recorder = broken"
    )
    result = train(Arm(str(drawn["detect"]), guard={}, code=code))
    assert result.error == ""
    assert "could not guard this training; it runs as plain Ultralytics" in result.log
    assert "PermissionError: read-only" in result.log


def test_a_sample_that_cannot_be_read_costs_its_own_step_only(train, drawn):
    code = (
        "import yolo_gradsafe.gradients.update_ratio as m\n"
        "def broken(*_): raise RuntimeError('planted')\n"
        "m.UpdateRatioSampler._by_layer = broken"
    )
    result = train(Arm(str(drawn["detect"]), guard={"telemetry": {"update_ratio_steps": 4}}, code=code))
    assert result.error == ""
    assert result.log.count("internal error, training continues") == 1
    assert [int(row["step"]) for row in result.steps] == [1, 2, 3, 4, 6], "step 5 read the sample of step 4"
