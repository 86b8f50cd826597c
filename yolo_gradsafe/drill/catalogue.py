"""All scenarios by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolo_gradsafe.config_errors import nearest
from yolo_gradsafe.drill import faults
from yolo_gradsafe.drill.faults import Fault
from yolo_gradsafe.drill.scenario import Promise, Scenario

__all__ = ["QUICK_SET", "SCENARIOS", "SMALL_SET", "find"]

SKIPPED = Promise()
"""Every batch that it strikes costs its step, and nothing else."""
HEALED = Promise(steps=2, steps_a_strike=0)
"""Put right in place: the step that showed it, and one that it spoiled before."""
BACK = Promise(steps=60, steps_a_strike=1, rollbacks=3)
"""Back to a snapshot: as far as the newest trusted one is. In runs long enough to learn that again."""
DIVERGED = Promise(steps=120, steps_a_strike=0, rollbacks=20, tolerance=0.10)
LONGER: dict[str, Any] = {"epochs": 14}
SCALED = ("fp16", "scaler")
FIRST_EPOCH: dict[str, Any] = {"epoch": 1}
LAST_BATCH: dict[str, Any] = {"batch": -1}


def _of(kind: type[Fault], **when: Any) -> Callable[[int], Fault]:
    return lambda seed: kind(**when, seed=seed)


_ALL = (
    Scenario("no-fault", None, Promise(steps_a_strike=0), about="Nothing is injected: no remedy may be used"),
    # data
    Scenario("nan-pixel-first-batch", _of(faults.NaNPixel, epoch=1, batch=1), SKIPPED),
    Scenario("nan-pixel-first-epoch", _of(faults.NaNPixel, **FIRST_EPOCH), SKIPPED),
    Scenario("nan-pixel", _of(faults.NaNPixel), SKIPPED),
    Scenario("nan-pixel-last-batch", _of(faults.NaNPixel, **LAST_BATCH), SKIPPED),
    Scenario("nan-pixel-very-last", _of(faults.NaNPixel, epoch=-1, batch=-1), SKIPPED),
    Scenario("inf-pixel", _of(faults.InfPixel), SKIPPED),
    Scenario("huge-image", _of(faults.HugeImage), SKIPPED),
    Scenario("nan-label", _of(faults.NaNLabel), SKIPPED),
    Scenario("poisonous-image", lambda seed: faults.PoisonousImage(seed), SKIPPED),
    Scenario("nan-batches-10", _of(faults.NaNPixel, length=10), SKIPPED),
    Scenario("nan-batches-200", _of(faults.NaNPixel, epoch=3, batch=1, length=200), SKIPPED, arguments={"epochs": 22}),
    Scenario(
        "nan-micro-batches",
        _of(faults.NaNPixel, length=3, every=4),
        Promise(steps=1, steps_a_strike=0),
        about="One pixel is NaN in one of the four micro-batches of an accumulation window",
        arguments={"nbs": 16, "epochs": 16},
    ),
    # forward
    Scenario("nan-backbone", _of(faults.NaNBackbone), SKIPPED),
    Scenario("inf-backbone", _of(faults.InfBackbone), SKIPPED),
    Scenario("nan-head", _of(faults.NaNHead), SKIPPED),
    Scenario("inf-head", _of(faults.InfHead), SKIPPED),
    Scenario("fp16-overflow", _of(faults.HalfOverflow, length=0), Promise(steps=5), precisions=("fp16",)),
    # loss
    Scenario("nan-loss", _of(faults.NaNLoss), SKIPPED),
    Scenario("nan-loss-last-batch", _of(faults.NaNLoss, **LAST_BATCH), SKIPPED),
    Scenario("inf-loss", _of(faults.InfLoss), SKIPPED),
    Scenario("huge-loss", _of(faults.HugeLoss), SKIPPED),
    Scenario("loss-spike", _of(faults.LossSpike), SKIPPED),
    # gradient
    Scenario("nan-gradient", _of(faults.NaNGradient), SKIPPED),
    Scenario("inf-gradient", _of(faults.InfGradient), SKIPPED),
    Scenario("huge-gradients", _of(faults.HugeGradients), SKIPPED),
    Scenario(
        "overflow-siege",
        _of(faults.InfGradient, epoch=3, batch=1, length=30),
        SKIPPED,
        precisions=SCALED,
        arguments=LONGER,
    ),
    # weights
    Scenario("nan-weight", _of(faults.NaNWeight), HEALED),
    Scenario("flipped-weight", _of(faults.FlippedWeight), BACK, arguments=LONGER),
    Scenario("blown-up-layer", _of(faults.BlownUpLayer), BACK, arguments=LONGER),
    # buffers
    Scenario("inf-running-var", _of(faults.InfRunningVar), HEALED),
    Scenario("nan-running-mean", _of(faults.NaNRunningMean), HEALED),
    Scenario("nan-running-mean-very-last", _of(faults.NaNRunningMean, epoch=-1, batch=-1), HEALED),
    # optimizer
    Scenario("nan-momentum", _of(faults.NaNMomentum), HEALED),
    Scenario("inf-second-moment", _of(faults.InfSecondMoment), HEALED, optimizers=("AdamW",)),
    Scenario("learning-rate-jump", _of(faults.LearningRateJump, length=5), BACK, arguments=LONGER),
    # ema
    Scenario("nan-ema-weight", _of(faults.NaNEMAWeight), HEALED),
    Scenario("inf-ema-buffer", _of(faults.InfEMABuffer), HEALED),
    # scaler
    Scenario("zero-scale", _of(faults.ZeroScale), HEALED, precisions=SCALED),
    Scenario("inf-scale", _of(faults.InfScale), HEALED, precisions=SCALED),
    # settings: nothing is injected
    Scenario(
        "diverging-pose",
        None,
        DIVERGED,
        about="yolo26n-pose with AdamW at lr0=0.5 diverges by itself",
        tasks=("pose",),
        optimizers=("AdamW",),
        model="yolo26n-pose.yaml",
        wrong={"lr0": 0.5},
    ),
    Scenario(
        "diverging-musgd",
        None,
        DIVERGED,
        about="yolo26n with MuSGD at lr0=1.0 collapses by itself",
        tasks=("detect",),
        optimizers=("MuSGD",),
        model="yolo26n.yaml",
        wrong={"lr0": 1.0},
    ),
    Scenario(
        "diverging-yolov8",
        None,
        DIVERGED,
        about="yolov8n with AdamW at lr0=1.0 and no warm-up diverges by itself",
        tasks=("detect",),
        optimizers=("AdamW",),
        model="yolov8n.yaml",
        wrong={"lr0": 1.0, "warmup_epochs": 0},
    ),
)

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
"""Scenarios by name, in the order in which they are shown."""
SMALL_SET = ("nan-pixel-first-epoch", "poisonous-image", "nan-loss-last-batch", "nan-weight", "inf-running-var")
"""What is drilled without being asked for anything."""
QUICK_SET = tuple(name for name, scenario in SCENARIOS.items() if not (scenario.wrong or scenario.promise.rollbacks))
"""What makes sense in a run of six steps, which is over before a snapshot is trusted and gone back to."""


def find(name: str) -> Scenario:
    """Return a scenario by its name.

    Raises:
        LookupError: There is none; the message names the nearest.
    """
    if name not in SCENARIOS:
        raise LookupError(f"unknown fault '{name}'.{nearest(name, list(SCENARIOS))} 'gradsafe drill --list' lists all.")
    return SCENARIOS[name]
