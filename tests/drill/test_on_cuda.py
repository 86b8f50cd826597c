"""Every fault of the drill, on a simulated GPU: what is said of it, and what is left of the training.

What only a real one can show is in ``benchmarks/gpu.sh``: the arithmetic of its kernels, its allocator, and copies by
threads that pin memory.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.arm import DETECT
from tests.cuda_trainer import OnCuda, small_yolo
from tests.fake_cuda import FakeCuda
from yolo_gradsafe.drill import faults
from yolo_gradsafe.drill.faults import Fault
from yolo_gradsafe.telemetry.schema import Cause, Kind

UNCHANGED = True
"""The state after the step is that before it, to the bit."""
BAD_BATCH, POISONED, HEALED = Kind.BAD_BATCH, Kind.POISONED, Kind.HEALED
TRANSIENT = (BAD_BATCH, Cause.TRANSIENT)
PREPROCESSING = (BAD_BATCH, Cause.PREPROCESSING)
PRECISION = (BAD_BATCH, Cause.PRECISION)

SAID: dict[type[Fault], tuple[set[tuple[Kind, str]], bool]] = {
    faults.NaNPixel: ({PREPROCESSING}, UNCHANGED),
    faults.InfPixel: ({PREPROCESSING}, UNCHANGED),
    faults.HugeImage: ({PRECISION}, UNCHANGED),
    faults.NaNLabel: (set(), not UNCHANGED),  # no anchor lies in such a box, so that the loss leaves it out
    faults.PoisonousImage: ({PREPROCESSING}, UNCHANGED),
    faults.NaNBackbone: ({TRANSIENT}, UNCHANGED),
    faults.InfBackbone: ({TRANSIENT}, UNCHANGED),
    faults.NaNHead: ({TRANSIENT}, UNCHANGED),
    faults.InfHead: ({TRANSIENT}, UNCHANGED),
    faults.HalfOverflow: ({PRECISION, (Kind.PRECISION, "")}, UNCHANGED),
    faults.NaNLoss: ({TRANSIENT}, UNCHANGED),
    faults.InfLoss: ({TRANSIENT}, UNCHANGED),
    faults.HugeLoss: ({TRANSIENT}, UNCHANGED),  # its gradients overflow in float16
    faults.LossSpike: (set(), not UNCHANGED),  # clipped, or gradients that overflow in float16
    faults.NaNGradient: ({TRANSIENT}, UNCHANGED),
    faults.InfGradient: ({TRANSIENT}, UNCHANGED),
    faults.HugeGradients: ({(Kind.NORM_OVERFLOW, "")}, not UNCHANGED),  # clipped by a norm that float32 cannot hold
    faults.NaNWeight: ({(POISONED, Cause.WEIGHTS), (HEALED, "")}, not UNCHANGED),
    faults.FlippedWeight: ({(POISONED, Cause.WEIGHTS)}, not UNCHANGED),
    faults.BlownUpLayer: ({PRECISION, (Kind.PRECISION, "")}, not UNCHANGED),
    faults.InfRunningVar: ({(POISONED, Cause.WEIGHTS)}, not UNCHANGED),
    faults.NaNRunningMean: ({(POISONED, Cause.WEIGHTS)}, not UNCHANGED),
    faults.NaNMomentum: ({(POISONED, Cause.WEIGHTS), (HEALED, "")}, not UNCHANGED),
    faults.InfSecondMoment: ({(HEALED, "")}, not UNCHANGED),
    faults.LearningRateJump: ({(Kind.LR_BACKOFF, Cause.LEARNING_RATE)}, not UNCHANGED),
    faults.NaNEMAWeight: ({(HEALED, "")}, not UNCHANGED),
    faults.InfEMABuffer: ({(HEALED, "")}, not UNCHANGED),
    faults.ZeroScale: ({TRANSIENT}, UNCHANGED),
    faults.InfScale: ({TRANSIENT}, UNCHANGED),
}
"""What is said of each under AMP, and whether the step that it strikes changes nothing of the training's state."""
IN_FP32: dict[type[Fault], tuple[set[tuple[Kind, str]], bool]] = {
    faults.HugeImage: ({(POISONED, Cause.TRANSIENT)}, not UNCHANGED),  # its statistics alone are left out
    faults.HugeLoss: ({(Kind.NORM_OVERFLOW, "")}, not UNCHANGED),
    faults.BlownUpLayer: (set(), not UNCHANGED),  # seen later, by the loss
}
AMP_ALONE = {faults.HalfOverflow, faults.ZeroScale, faults.InfScale}
FIRST_OF_EPOCH_2 = {"epoch": 2, "batch": 1}
ARGUMENTS: dict[type[Fault], dict[str, Any]] = {
    faults.HalfOverflow: {**FIRST_OF_EPOCH_2, "length": 0},
    faults.LearningRateJump: {**FIRST_OF_EPOCH_2, "length": 5},
    faults.PoisonousImage: {},
}


def struck(on: OnCuda) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Train until two snapshots are trusted, and a step with a fault; return the state before it and after it."""
    on.take(0), on.take(1), on.take(1)
    on.begin_epoch()
    before = on.state()
    on.take(0)
    return before, on.state()


def strike(device: FakeCuda, model: str, data: Any, folder: Any, kind: type[Fault], precision: str) -> None:
    fault = kind(**ARGUMENTS.get(kind, FIRST_OF_EPOCH_2))
    optimizer = "AdamW" if kind is faults.InfSecondMoment else "SGD"
    on = OnCuda(device, model, data, folder, optimizer, precision, callbacks=fault.callbacks)
    before, after = struck(on)
    for _ in range(4):
        on.take(1)
    assert fault.fired >= 1
    said, unchanged = {**SAID, **(IN_FP32 if precision == "fp32" else {})}[kind]
    told = {(incident["kind"], incident["cause"]) for incident in on.incidents()}
    assert told >= said if said else told <= {TRANSIENT}
    if unchanged:
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(bool(t.isfinite().all()) for t in on.state().values())
    assert not on.session.boundary.faults
    on.close()


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_every_fault_under_amp(device, drawn, tmp_path, kind):
    strike(device, small_yolo(tmp_path), drawn["detect"], tmp_path, kind, "fp16")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SAID if kind not in AMP_ALONE], ids=lambda kind: kind.__name__)
def test_every_fault_in_fp32(device, drawn, tmp_path, kind):
    strike(device, small_yolo(tmp_path), drawn["detect"], tmp_path, kind, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_every_fault_in_the_newest_yolo(device, drawn, tmp_path, kind):
    strike(device, DETECT, drawn["detect"], tmp_path, kind, "fp16")


def test_every_fault_of_the_drill_is_tested_here():
    assert {*SAID, faults.Fault, faults.Edit} == {getattr(faults, name) for name in faults.__all__}


@pytest.mark.parametrize("kind", [faults.NaNPixel, faults.InfGradient])
def test_a_siege_changes_nothing(device, drawn, tmp_path, kind):
    fault = kind(**FIRST_OF_EPOCH_2, length=12)
    on = OnCuda(device, small_yolo(tmp_path), drawn["detect"], tmp_path, "SGD", "fp16", callbacks=fault.callbacks)
    before, _ = struck(on)
    for number in range(11):
        on.take(number)
    assert fault.fired == 12
    assert all(torch.equal(before[name], value) for name, value in on.state().items())
    on.take(1)
    assert {incident["steps_lost"] for incident in on.incidents()} == {1}
    assert not torch.equal(before["model/model.0.conv.weight"], on.state()["model/model.0.conv.weight"])
    on.close()


def test_one_bad_micro_batch_of_a_window_costs_its_share(device, drawn, tmp_path):
    fault = faults.NaNPixel(epoch=2, batch=2)
    on = OnCuda(
        device, small_yolo(tmp_path), drawn["detect"], tmp_path, "SGD", "fp16", nbs=8, callbacks=fault.callbacks
    )
    for _ in range(3):
        on.take(0, 1)
    on.begin_epoch()
    before = on.state()
    on.take(0, 1)
    on.take(0, 1)
    assert fault.fired == 1
    assert [incident["cause"] for incident in on.incidents()][-1] == "preprocessing"
    assert not torch.equal(before["model/model.0.conv.weight"], on.state()["model/model.0.conv.weight"])
    assert all(bool(t.isfinite().all()) for t in on.state().values())
    on.close()


@pytest.mark.parametrize("pose", [False, True], ids=["detect", "pose"])
def test_a_rate_that_breaks_the_model_is_lowered(device, drawn, tmp_path, pose):
    def too_high(trainer: Any) -> None:
        trainer.args.lr0 = 1.0

    on = OnCuda(
        device, small_yolo(tmp_path, pose), drawn["pose" if pose else "detect"], tmp_path, "AdamW", "fp16",
        callbacks={"on_pretrain_routine_start": too_high},
    )  # fmt: skip
    for number in range(8):
        on.take(number)
    assert (str(Kind.LR_BACKOFF), str(Cause.LEARNING_RATE)) in {(i["kind"], i["cause"]) for i in on.incidents()}
    assert on.session.step.recovery.rate.factor < 0.1
    assert all(bool(t.isfinite().all()) for t in on.state().values())
    assert not on.session.boundary.faults
    on.close()
