"""The verdict on an optimizer step: a pure function of what was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    """Loss of each micro-batch of the accumulation window, as back-propagated but before AMP scaling; the last is newest."""
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

    def with_norm(self, norm: float) -> Sample:
        """Return the sample with a norm that was computed in another way."""
        return replace(self, grad_norm=norm)


def judge(sample: Sample, threshold: float, scale_floor: float, state_finite: bool = True) -> Verdict:
    """Say what kind of step this is.

    Args:
        sample: The step.
        threshold: Gradient norm above which the clipper acts; inf where nothing clips.
        scale_floor: AMP scale at or below which an overflow is no longer the GradScaler's search for a scale.
        state_finite: Whether the weights and the optimizer's state are finite; looked at only for a step that is bad.

    Returns:
        ``ok`` or ``clipped`` for a step that can be taken, ``poisoned`` when batch-norm statistics alone are damaged or the
        state behind a bad step is, ``amp_overflow`` for gradients that the GradScaler is still finding a scale for, and
        ``bad_batch`` for everything else that is not finite.
    """
    if sample.losses_finite and sample.grads_finite:
        if not sample.buffers_finite:
            return Verdict.POISONED
        return Verdict.CLIPPED if sample.grad_norm > threshold else Verdict.OK
    if not state_finite:
        return Verdict.POISONED
    if sample.losses_finite and sample.buffers_finite and sample.scaler and sample.amp_scale > scale_floor:
        return Verdict.AMP_OVERFLOW
    return Verdict.BAD_BATCH
