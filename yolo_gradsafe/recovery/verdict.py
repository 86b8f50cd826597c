"""The verdict on an optimizer step: a pure function of what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["Sample", "judge"]


@dataclass(frozen=True)
class Sample:
    """What is known of an optimizer step before it is taken."""

    epoch: int
    step: int
    batch: int
    lr: float
    losses: list[float]
    """Loss of each micro-batch of the window, as back-propagated but before AMP scaling; the last is newest."""
    items: dict[str, float]
    """Loss items of the newest micro-batch by name."""
    grad_norm: float
    """Global L2 norm of the unscaled gradients before clipping."""
    losses_finite: bool
    """Whether the losses of all micro-batches are finite, on every rank."""
    grads_finite: bool
    """Whether every element of every gradient is finite; True also when only their norm overflows fp32."""
    buffers_finite: bool
    """Whether the batch-norm statistics are finite after the forward passes."""
    scaler: bool
    """Whether a GradScaler is at work."""
    amp_scale: float
    """Its loss scale; 1 without one."""

    @property
    def loss(self) -> float:
        """Loss of the newest micro-batch."""
        return self.losses[-1]


def judge(sample: Sample, scale_floor: float, state_finite: bool = True) -> Verdict:
    """Say what kind of step this is.

    Args:
        sample: The step.
        scale_floor: AMP scale at or below which an overflow is no longer the GradScaler's search for a scale.
        state_finite: Whether the weights and the optimizer's state are finite; looked at only for a step that is bad.

    Returns:
        ``ok`` for a step that can be taken (it becomes ``clipped`` when the clipper acts), ``poisoned`` when batch-norm
        statistics alone are damaged or the state behind a bad step is, ``amp_overflow`` for gradients that the
        GradScaler is still finding a scale for, and ``bad_batch`` for everything else that is not finite.
    """
    if sample.losses_finite and sample.grads_finite:
        return Verdict.OK if sample.buffers_finite else Verdict.POISONED
    if not state_finite:
        return Verdict.POISONED
    if sample.losses_finite and sample.buffers_finite and sample.scaler and sample.amp_scale > scale_floor:
        return Verdict.AMP_OVERFLOW
    return Verdict.BAD_BATCH
