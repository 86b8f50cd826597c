"""The verdict on an optimizer step: a pure function of what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from yolo_gradsafe.judge.loss_trend import NO_SIGNAL, LossTrend
from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["StepMetrics", "judge"]


@dataclass(frozen=True)
class StepMetrics:
    """What is known of an optimizer step before it is taken."""

    epoch: int
    step: int
    batch: int
    lr: float
    losses: list[float]
    """Loss of each micro-batch of the window, as back-propagated but before AMP scaling; the last is newest."""
    items: dict[str, float]
    """Loss items of the newest micro-batch by name."""
    images: int
    """Images of the newest micro-batch, on this rank."""
    image_loss: float
    """Loss an image, over the window; the largest of all ranks; 0 where a loss is not finite."""
    grad_norm: float
    """Global L2 norm of the unscaled gradients before clipping."""
    losses_finite: bool
    """Whether the losses of all micro-batches are finite, on every rank."""
    grads_finite: bool
    """Whether every element of every gradient is finite; True also when only their norm overflows fp32."""
    buffers_sound: bool
    """Whether the batch-norm statistics are finite after the forward passes, and not blown up by them."""
    scaler: bool
    """Whether a GradScaler is at work."""
    amp_scale: float
    """Its loss scale; 1 without one."""

    @property
    def loss(self) -> float:
        """Loss of the newest micro-batch."""
        return self.losses[-1]


def judge(
    sample: StepMetrics,
    scale_floor: float,
    state_finite: bool = True,
    outlook: LossTrend = NO_SIGNAL,
    diverging: bool = False,
    stalled: bool = False,
) -> Verdict:
    """Say what kind of step this is.

    Args:
        sample: The step.
        scale_floor: AMP scale at or below which an overflow is no longer the GradScaler's search for a scale.
        state_finite: Whether the weights and the optimizer's state are finite; looked at only for a step that is bad.
        outlook: How the step looks against the recent past; looked at only for a step that is finite.
        diverging: Whether losses have left their range for long, and other weights were found to do better.
        stalled: Whether the gradients of a stage have vanished for long.

    Returns:
        For a finite step ``poisoned`` when batch-norm statistics alone are damaged, else ``diverging``, ``spike``,
        ``stalled`` or ``ok`` (which becomes ``clipped`` when the clipper acts). For a step that is not finite
        ``poisoned`` when the state behind it is damaged, ``amp_overflow`` for gradients that the GradScaler is still
        finding a scale for, and ``bad_batch`` for everything else.
    """
    if sample.losses_finite and sample.grads_finite:
        if not sample.buffers_sound:
            return Verdict.POISONED
        if diverging:
            return Verdict.DIVERGING
        if outlook.spike:
            return Verdict.SPIKE
        return Verdict.STALLED if stalled else Verdict.OK
    if not state_finite:
        return Verdict.POISONED
    searching = sample.scaler and scale_floor < sample.amp_scale < math.inf
    if sample.losses_finite and sample.buffers_sound and searching:
        return Verdict.AMP_OVERFLOW
    return Verdict.BAD_BATCH
