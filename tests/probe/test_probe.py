"""The experiment on a real trainer: repeatable, without traces, and right about planted models."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.utils import LOGGER, ROOT

from yolo_gradsafe.adapter.probe_trainer import ProbeTrainer
from yolo_gradsafe.probe import ProbeError, ProbeResult, probe, run_probe

NEWEST = "yolo26n" if (ROOT / "cfg/models/26").is_dir() else "yolo11n"
ARGS = {"imgsz": 64, "batch": 4, "nbs": 8, "optimizer": "AdamW", "device": "cpu"}
SHORT = {"range_steps": 20, "trial_steps": 5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Weights of the drawn set's three classes: as they are drawn, and ten times as large."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = YOLO(f"{NEWEST}.yaml")
    model.save(folder / "plain.pt")
    with torch.no_grad():
        for module in model.model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
                module.weight.mul_(10)
    model.save(folder / "large.pt")
    return {name: folder / f"{name}.pt" for name in ("plain", "large")}


def state() -> tuple:
    """What a trainer changes in a process."""
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        dict(os.environ),
        os.getcwd(),
        LOGGER.level,
    )


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".cache"
    }


@pytest.mark.slow
def test_it_repeats_itself_and_leaves_no_trace(drawn, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "temporary").mkdir()
    folders = weights["plain"].parent, drawn["detect"].parent
    random.random(), np.random.rand(), torch.rand(1)
    before, there = state(), [files(folder) for folder in folders]
    first = probe(str(weights["plain"]), str(drawn["detect"]), **SHORT, **ARGS)
    assert state() == before
    assert [files(folder) for folder in folders] == there
    assert list((tmp_path / "temporary").glob("gradsafe*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    torch.rand(7)
    second = probe(str(weights["plain"]), str(drawn["detect"]), **SHORT, **ARGS)
    assert first.model_dump(exclude={"seconds"}) == second.model_dump(exclude={"seconds"})
    other = probe(str(weights["plain"]), str(drawn["detect"]), seed=1, **SHORT, **ARGS)
    assert other.norms.norm != first.norms.norm
    assert first.init.verdict == "healthy", first.init.reason
    assert first.setup.accumulate == first.norms.batches == first.trial.batches == 2
    assert first.headroom.fp16 == "safe"
    assert (first.advice.lr0, first.advice.max_norm) == (first.trial.best.lr0, first.trial.best.max_norm)
    arms = [arm for arm in (first.trial.yours, first.trial.lr0, first.trial.max_norm) if arm]
    assert len({str(arm.courses[0].loss[0]) for arm in arms}) == 1, "the same weights and the same first batch"
    assert first.trial.yours.courses[0].loss != first.trial.yours.courses[1].loss, "another seed, other batches"


def test_a_budget_that_is_too_small_leaves_everything_as_it_is(drawn, weights):
    found = probe(str(weights["plain"]), str(drawn["detect"]), range_steps=20, budget=1.0, lr0=0.02, **ARGS)
    assert found.trial is None
    assert (found.advice.lr0, found.advice.max_norm) == (0.02, 10.0)
    assert found.norms.median is not None


def test_weights_that_are_ten_times_too_large(drawn, weights):
    found = probe(str(weights["large"]), str(drawn["detect"]), **SHORT, **ARGS)
    assert found.init.verdict == "exploding"
    assert found.headline.startswith("Exploding")


@pytest.mark.slow
def test_pose_from_yaml_as_the_command_asks(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"model": f"{NEWEST}-pose.yaml", "data": str(drawn["pose"]), **ARGS, **SHORT, "seed": 3}
    found = run_probe(words)
    assert found.setup.task == "pose"
    assert found.setup.seed == 3
    assert found.init.verdict == "healthy", found.init.reason
    assert sorted(path.name for path in (tmp_path / "runs/probe").iterdir()) == ["probe.json", "probe.png"]
    assert ProbeResult.load(tmp_path / "runs/probe/probe.json") == found
    parts = {layer.name for layer in found.init.layers if layer.in_head}
    assert {"model.23.cv2", "model.23.cv3", "model.23.cv4"} <= parts
    assert found.init.unnormalised
    odd = [layer.name for layer in found.init.unnormalised if not layer.expected]
    assert all(name.startswith("model.23.") for name in odd)


def test_stages_that_vanish(drawn, tmp_path):
    text = "nc: 3\nact: torch.nn.Sigmoid()\nbackbone:\n  - [-1, 1, nn.Conv2d, [3, 3, 3, 2, 1]]\n"
    text += "  - [-1, 1, nn.Sigmoid, []]\n" + 12 * (
        "  - [-1, 1, nn.Conv2d, [3, 3, 3, 1, 1]]\n  - [-1, 1, nn.Sigmoid, []]\n"
    )
    text += "  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, Conv, [64, 3, 2]]\n"
    text += "head:\n  - [[-1], 1, Detect, [nc]]\n"
    (tmp_path / "sigmoid.yaml").write_text(text)
    found = probe(str(tmp_path / "sigmoid.yaml"), str(drawn["detect"]), **SHORT, **ARGS)
    assert found.init.verdict == "vanishing", found.init.reason


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        ({}, SyntaxError, "'model' is missing"),
        ({"model": "yolo26n.yaml"}, SyntaxError, "'data' is missing"),
        ({"model": "yolo26n.yaml", "data": "x.yaml", "imgz": 64}, SyntaxError, "imgsz"),
        ({"model": "yolo26n.yaml", "data": "x.yaml", "lr0": "high"}, TypeError, "lr0"),
        ({"model": "yolo26n.yaml", "data": "x.yaml", "range_steps": 3}, ProbeError, "range_steps"),
        ({"model": "yolo26n.yaml", "data": "x.yaml", "trial_steps": 3}, ProbeError, "trial_steps"),
    ],
)
def test_wrong_words_are_said_before_anything_is_done(tmp_path, words, error, match):
    with pytest.raises(error, match=match):
        run_probe(words, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_memory_for_the_batch_it_is_halved_and_that_is_said(drawn, tmp_path, monkeypatch):
    forward, sizes = ProbeTrainer.forward, []

    def within(trainer):
        sizes.append(trainer.batch_size)
        if trainer.batch_size > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Planted.")
        return forward(trainer)

    monkeypatch.setattr(ProbeTrainer, "forward", within)
    result = probe(f"{NEWEST}.yaml", str(drawn["detect"]), **{**ARGS, "batch": 8}, **SHORT)
    assert list(dict.fromkeys(sizes)) == [8, 4, 2]
    assert (result.setup.batch, result.setup.accumulate) == (2, 4)
    assert result.advice.notes[0] == (
        "the device has too little memory for a batch of 8 in fp32: a batch of 2 was taken"
    )


def test_not_even_one_image_fits(drawn, monkeypatch):
    def fails(_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Planted.")

    monkeypatch.setattr(ProbeTrainer, "forward", fails)
    with pytest.raises(ProbeError, match="single image"):
        probe(f"{NEWEST}.yaml", str(drawn["detect"]), **{**ARGS, "batch": 2}, **SHORT)
