"""Every fault does what it says to a real trainer, once, and leaves no hook."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tests.drill.standing import Seen, Standing
from yolo_gradsafe.drill import faults
from yolo_gradsafe.drill.faults import Fault

HERE = {"epoch": 1, "batch": 1}
SCALE = 2.0**16


@pytest.fixture(scope="module")
def standing(drawn, tmp_path_factory) -> Standing:
    return Standing(drawn["detect"], tmp_path_factory.mktemp("standing"))


@pytest.fixture(scope="module")
def sound(standing) -> Seen:
    return standing._pass(None)


def _nan(value: float) -> bool:
    return math.isnan(value)


def _forward_poisoned(seen: Seen) -> bool:
    return not seen.losses.isfinite().all() and seen.bad("buffers") > 0 and seen.bad("weights") == 0


def _loss_alone(seen: Seen) -> bool:
    return not seen.losses.isfinite().all() and seen.bad("buffers") == 0


def _one_bad(part: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.bad(part) == 1


EFFECTS: dict[type[Fault], Callable[[Seen], bool]] = {
    faults.NaNPixel: lambda s: int(s.batch["img"].isnan().sum()) == 1 and _forward_poisoned(s),
    faults.InfPixel: lambda s: int(s.batch["img"].isinf().sum()) == 1 and _forward_poisoned(s),
    faults.HugeImage: lambda s: bool((s.batch["img"][0] == 1e8).all()) and float(s.batch["img"][1:].max()) <= 1,
    faults.NaNLabel: lambda s: bool(s.batch["bboxes"][0].isnan().all()) and not s.batch["bboxes"][1:].isnan().any(),
    faults.NaNBackbone: _forward_poisoned,
    faults.InfBackbone: _forward_poisoned,
    faults.NaNHead: _forward_poisoned,
    faults.InfHead: _forward_poisoned,
    faults.NaNLoss: lambda s: _loss_alone(s) and _nan(s.items[0]) and _nan(s.norm),
    faults.InfLoss: lambda s: _loss_alone(s) and math.isinf(s.items[0]),
    faults.HugeLoss: lambda s: math.isclose(float(s.losses.sum()), 1e30, rel_tol=1e-3) and math.isfinite(s.norm),
    faults.LossSpike: lambda s: float(s.losses.sum()) > 1e4,
    faults.NaNGradient: lambda s: _loss_sound(s) and sum(bool(g.isnan().any()) for g in s.gradients) == 1,
    faults.InfGradient: lambda s: _loss_sound(s) and sum(int(g.isinf().sum()) for g in s.gradients) == 1,
    faults.HugeGradients: lambda s: _loss_sound(s) and s.norm / SCALE > 1e20 and math.isfinite(s.norm),
    faults.NaNWeight: _one_bad("weights"),
    faults.FlippedWeight: lambda s: sum(int((t == 1e30).sum()) for t in s.state["weights"].values()) == 1,
    faults.BlownUpLayer: lambda s: max(float(t.abs().max()) for t in s.state["weights"].values()) > 100,
    faults.InfRunningVar: _one_bad("buffers"),
    faults.NaNRunningMean: _one_bad("buffers"),
    faults.NaNMomentum: _one_bad("optimizer"),
    faults.InfSecondMoment: _one_bad("optimizer"),
    faults.NaNEMAWeight: _one_bad("ema"),
    faults.InfEMABuffer: _one_bad("ema"),
    faults.LearningRateJump: lambda s: min(rate for rate in s.rates) > 0.5,
    faults.ZeroScale: lambda s: s.norm == 0,
    faults.InfScale: lambda s: not math.isfinite(s.norm),
}


def _loss_sound(seen: Seen) -> bool:
    return bool(seen.losses.isfinite().all()) and seen.bad("buffers") == 0


@pytest.mark.parametrize("kind", EFFECTS, ids=lambda kind: kind.__name__)
def test_does_what_it_says_and_leaves_no_trace(kind, standing, sound):
    fault = kind(**HERE)
    seen = standing.struck_by(fault)
    assert fault.fired == 1
    assert EFFECTS[kind](seen)
    assert standing.traces() == 0
    again = standing._pass(None)
    standing.trainer.optimizer.zero_grad()
    assert again.rates == sound.rates
    assert torch.equal(again.losses, sound.losses), "a transient fault must be gone"


def test_every_fault_is_tested_here():
    special = {faults.PoisonousImage, faults.HalfOverflow, faults.Fault, faults.Edit}
    assert set(EFFECTS) | special == {getattr(faults, name) for name in faults.__all__}


def test_one_image_is_poisonous_whenever_it_comes_up(standing):
    fault = faults.PoisonousImage()
    assert _forward_poisoned(standing.struck_by(fault))
    name = fault.file
    assert name
    assert _forward_poisoned(standing.struck_by(fault))
    assert (fault.file, fault.fired) == (name, 2)
    fault.file = "another.jpg"
    assert not _forward_poisoned(standing.struck_by(fault))
    assert fault.fired == 2


def test_a_batch_that_is_taken_once_more_is_counted_once_and_struck_only_by_what_lasts(standing):
    for fault, again in ((faults.NaNPixel(**HERE, length=2), False), (faults.PoisonousImage(), True)):
        fault.callbacks["on_train_epoch_start"](standing.trainer)
        for _ in range(2):
            raw = {key: value.clone() if torch.is_tensor(value) else value for key, value in standing._raw.items()}
            batch = standing.trainer.preprocess_batch(raw)
            fault._look(standing.trainer, batch)
            first = bool(batch["img"].isnan().any())
            batch["img"][:] = 0
            fault._look(standing.trainer, batch)
            assert (first, bool(batch["img"].isnan().any())) == (True, again)
            fault.callbacks["on_train_batch_end"](standing.trainer)
        assert fault.fired == 2


def test_half_overflow_strikes_float16_alone(standing, monkeypatch):
    fault = faults.HalfOverflow(**HERE, length=0)
    assert _loss_sound(standing.struck_by(fault))
    assert fault.fired == 0
    model = standing.trainer.model
    forward = model.forward

    def half(*args, **kwargs):
        with torch.autocast("cpu", dtype=torch.float16):
            return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", half)
    assert not _loss_sound(standing.struck_by(fault))
    assert fault.fired == 1
    assert standing.traces() == 0


def test_the_same_seed_harms_the_same_element(standing):
    first, same, other = (
        standing.struck_by(faults.NaNWeight(**HERE, seed=seed)).state["weights"] for seed in (0, 0, 1)
    )

    def hit(weights):
        return [(name, int(t.isnan().flatten().nonzero()[0])) for name, t in weights.items() if t.isnan().any()]

    assert hit(first) == hit(same) != hit(other)
