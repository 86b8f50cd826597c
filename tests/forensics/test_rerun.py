"""``gradsafe replay``: the failure again, outside training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.arm import DETECT
from tests.forensics.lab import planted
from yolo_gradsafe.adapter.replay import Replay
from yolo_gradsafe.cli import app
from yolo_gradsafe.forensics.diagnose import diagnose
from yolo_gradsafe.forensics.kept_batches import KeptBatches
from yolo_gradsafe.telemetry import Incident, Recorder, RunInfo

LAYER = "model.4.cv1.conv"


@pytest.fixture(scope="module")
def run(labs, tmp_path_factory) -> Path:
    """Return a run with two bad batches and one that was not kept."""
    lab = labs(DETECT)
    folder = tmp_path_factory.mktemp("run") / "train"
    recorder = Recorder(folder).start()
    recorder.info(RunInfo(task="detect"))
    kept = KeptBatches(folder / "stability" / "batches", archive=True)
    weight = lab.model.get_submodule(LAYER).weight
    ema = lab.trainer.ema.ema.get_submodule(LAYER).weight
    before = ema.data.clone()
    with planted(weight, lambda w: w.mul_(3e6)):
        ema.data.copy_(weight.data.clamp(-6e4, 6e4))  # what is saved is fp16
        lab.trainer.last, lab.trainer.best = folder / "weights" / "last.pt", folder / "weights" / "best.pt"
        lab.trainer.last.parent.mkdir()
        lab.trainer.wdir = lab.trainer.last.parent
        lab.trainer.epoch, lab.trainer.fitness, lab.trainer.best_fitness = 0, 0.0, 1.0
        lab.trainer.metrics = {}
        lab.trainer.save_model()
        for number, batch, precision in ((1, lab.with_nan_pixel(3), "fp32"), (2, lab.batch, "fp16")):
            culprit = diagnose(Replay(lab.model, precision), batch)
            assert kept.keep(batch, 1, number, culprit).archive
    ema.data.copy_(before)
    for number in (1, 2, 9):
        recorder.incident(Incident("bad_batch", epoch=1, step=number, batch=number, message="seen", action="done"))
    return folder


def gradsafe(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output


def test_an_overflow_shows_again_in_its_layer(run):
    code, text = gradsafe("replay", str(run), "--incident", "2")
    assert code == 0, text
    now = next(line for line in text.splitlines() if line.startswith("now:"))
    assert f"fp16 overflow in {LAYER} (max " in now
    assert any(line.split()[0] == LAYER and line.split()[-1] == "NO" for line in text.splitlines() if line.strip())
    assert any(line.split()[:1] == ["model.0"] and line.split()[-1] == "yes" for line in text.splitlines())


def test_as_json_and_with_another_model(run):
    code, text = gradsafe("replay", str(run), "--incident", "1", "--model", DETECT, "--json")
    assert code == 0, text
    found = json.loads(text[text.index("{") :])
    assert found["failed"]
    assert found["culprit"]["cause"] == "preprocessing"
    assert found["culprit"]["indices"] == [3]
    assert found["total"] == "nan"
    healthy = json.loads(gradsafe("replay", str(run), "--incident", "2", "--model", DETECT, "--json")[1])
    assert (healthy["failed"], healthy["culprit"]["cause"]) == (False, "transient")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--incident", "3"], "the batch of incident 3 (epoch 1, batch 9) was not kept"),
        ([], "the batch of incident 3"),
        (["--incident", "4"], "there is no incident 4"),
        (["--incident", "0"], "there is no incident 0"),
        (["--incident", "1", "--model", "nowhere.pt"], "nowhere.pt cannot be loaded"),
        (["--incident", "1", "--model", "yolov8n-cls.yaml"], "the batch does not fit yolov8n-cls.yaml"),
    ],
)
def test_what_cannot_be_replayed_is_told_with_exit_code_2(run, words, message):
    code, text = gradsafe("replay", str(run), *words)
    assert code == 2, text
    assert message in " ".join(text.split())
    assert "Traceback" not in text


def test_a_folder_without_a_run_is_told(tmp_path):
    code, text = gradsafe("replay", str(tmp_path))
    assert code == 2
    assert "no gradsafe records" in text
