"""The verdict on an optimizer step: a pure function of what was measured, of the steps before, and of experiments.

What is said of a step, here and in the rest of the package:

* *finite*: its losses and gradients are finite.
* *sound*: it is finite, and the batch-norm statistics are fine.
* *safe*: it is finite, and neither of a divergence nor of a bad batch. Its gradients may be applied.
* *taken*: the optimizer applied it (``Outcome.taken``).
* *healthy*: a row of the records that was taken, with the verdict ``ok`` or ``clipped``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto

import numpy as np
from numpy.typing import NDArray

from yolo_gradsafe.judge.loss_trend import LossTrend
from yolo_gradsafe.judge.movement import Movement
from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["BatchNormHealth", "Evidence", "Signals", "StepMetrics", "clipped", "judge", "safe_to_apply"]

_UNSOUND_STEPS = 3
"""Steps in a row that spoil the batch-norm statistics alone, after which it is not the batch."""


class BatchNormHealth(IntEnum):
    """State of the batch-norm statistics after the forward passes; the worst of all ranks counts."""

    SOUND = 0
    BLOWN_UP = 1
    """Finite, and far larger than after the last good step."""
    NOT_FINITE = 2


@dataclass(frozen=True)
class StepMetrics:
    """What is known of an optimizer step before it is taken; read from the device at once."""

    epoch: int
    step: int
    batch: int
    lr: float
    """Learning rate of the first parameter group."""
    losses: list[float]
    """Loss of each micro-batch of the window, as back-propagated but before AMP scaling; the last is newest."""
    items: dict[str, float]
    """Loss items of the newest micro-batch by name."""
    images: int
    """Images of the newest micro-batch, on this rank."""
    image_loss: float
    """Loss an image, over the window; the largest of all ranks; 0 where a loss is not finite."""
    grad_norm: float
    """Global L2 norm of the unscaled gradients before clipping; the true one also where its squares overflow fp32."""
    losses_finite: bool
    """Whether the losses of all micro-batches are finite, on every rank."""
    grads_finite: bool
    """Whether every element of every gradient is finite; True also when only their norm overflows fp32."""
    batchnorm: BatchNormHealth
    """State of the batch-norm statistics, on the rank where it is worst."""
    scaler: bool
    """Whether a GradScaler is at work."""
    amp_scale: float
    """Its loss scale; 1 without one, 0 where the ranks have different ones."""
    lr_share: float = 1.0
    """Learning rate of the weight matrices as a share of the largest that their schedule comes to; 0 to 1."""
    lr_peak: float = 0.0
    """That largest rate, as the user has it now; 0 where it is not known."""
    norm_overflow: bool = False
    """Whether the sum of the squares overflows fp32 although every gradient is finite."""
    bad_tensors: Sequence[str] = ()
    """Parameters whose gradient is not finite before clipping, on this rank."""
    tensor_norms: Sequence[float] = ()
    """L2 norms of the gradients, in the model's order; those without one left out."""
    layer_norms: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """L2 norms of the layers' gradients."""
    stage_norms: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """L2 norms of the stages' gradients."""
    batchnorm_norm: float = math.nan
    """Norm of all batch-norm statistics, on this rank."""
    update_ratio: float = math.nan
    """How far the step before has moved the weights: L2 norm of the change over that of the weights, the median of
    weight matrices; the furthest of all ranks; nan when it is not known."""
    update_rate: float = 1.0
    """Learning rate of that step as a share of the schedule's largest, the guard's own factor included; above 0."""
    layer_update_ratios: NDArray[np.float64] | None = None
    """Update-to-weight ratio of each layer in that step, when all of them were sampled."""

    @property
    def loss(self) -> float:
        """Loss of the newest micro-batch."""
        return self.losses[-1]

    @property
    def peak_update_ratio(self) -> float:
        """What ``update_ratio`` would come to at the schedule's largest learning rate: steps are proportional to it."""
        return self.update_ratio / self.update_rate

    @property
    def finite(self) -> bool:
        """Whether losses and gradients are finite, on every rank."""
        return self.losses_finite and self.grads_finite

    @property
    def sound(self) -> bool:
        """Whether losses, gradients and batch-norm statistics are fine, on every rank."""
        return self.finite and self.batchnorm is BatchNormHealth.SOUND


@dataclass(frozen=True)
class Signals:
    """What the steps before say of a step; of one that is not finite, only how far they moved the weights."""

    loss: LossTrend = LossTrend.USUAL
    vanished: tuple[str, ...] = ()
    """Stages whose gradients have vanished for long."""
    unsound_steps: int = 0
    """Steps in a row, this one included, that were finite but for the batch-norm statistics."""
    movement: Movement = Movement.USUAL
    """How far they have moved the weights."""


class Evidence(Enum):
    """What was found out by an experiment; only a suspicious step is worth one."""

    NONE = auto()
    STATE_DAMAGED = auto()
    """Weights or optimizer state are not finite, on some rank."""
    TRUSTED_DO_BETTER = auto()
    """Weights of not long ago do several times better on the same batch, or the model has collapsed."""
    MOVED_TOO_FAR = auto()
    """The steps before have replaced the weights, or moved them too far and to where they do worse; they can be taken
    back."""


def judge(
    metrics: StepMetrics, signals: Signals = Signals(), evidence: Evidence = Evidence.NONE, scale_floor: float = 1.0
) -> Verdict:
    """Say what kind of step this is.

    Args:
        metrics: The step.
        signals: What the steps before say of it.
        evidence: What was found out of a suspicious step.
        scale_floor: AMP scale at or below which an overflow is no longer the GradScaler's search for a scale.

    Returns:
        ``diverging`` for any step after some that have to be taken back. For a finite step ``poisoned`` when batch-norm
        statistics alone are damaged, else ``diverging``, ``spike``, ``stalled`` or ``ok``. Statistics that stay damaged
        step after step are those of the data when they are finite, and come from weights that went bad (``diverging``)
        when they are not. For a step that is not finite ``poisoned`` when the state behind it is damaged,
        ``amp_overflow`` for gradients that the GradScaler is still finding a scale for, and ``bad_batch`` for
        everything else.
    """
    if evidence is Evidence.MOVED_TOO_FAR:
        return Verdict.DIVERGING
    if not metrics.finite:
        if evidence is Evidence.STATE_DAMAGED:
            return Verdict.POISONED
        searching = metrics.scaler and scale_floor < metrics.amp_scale < math.inf
        routine = metrics.losses_finite and metrics.batchnorm is BatchNormHealth.SOUND and searching
        return Verdict.AMP_OVERFLOW if routine else Verdict.BAD_BATCH
    if metrics.batchnorm is not BatchNormHealth.SOUND:
        if signals.unsound_steps <= _UNSOUND_STEPS:
            return Verdict.POISONED
        return Verdict.OK if metrics.batchnorm is BatchNormHealth.BLOWN_UP else Verdict.DIVERGING
    if evidence is Evidence.TRUSTED_DO_BETTER:
        return Verdict.DIVERGING
    if signals.loss in (LossTrend.SPIKE, LossTrend.SUSPECT):
        return Verdict.SPIKE
    return Verdict.STALLED if signals.vanished else Verdict.OK


def safe_to_apply(metrics: StepMetrics, verdict: Verdict) -> bool:
    """Whether the gradients may be applied: finite, and not those of a divergence or of a bad batch."""
    return metrics.finite and verdict not in (Verdict.DIVERGING, Verdict.BAD_BATCH)


def clipped(verdict: Verdict, scale: float) -> Verdict:
    """Return the word that is recorded for a step after the clipper scaled its gradients."""
    return Verdict.CLIPPED if verdict is Verdict.OK and scale < 1 else verdict
