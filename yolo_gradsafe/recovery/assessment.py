"""One optimizer step, from what was measured to what is recorded of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from yolo_gradsafe.clipping import Clip
from yolo_gradsafe.recovery.verdict import Sample
from yolo_gradsafe.telemetry.schema import Incident, StepRow, Verdict

__all__ = ["Assessment"]

_BAD = (Verdict.BAD_BATCH, Verdict.POISONED)
_TENSORS_NAMED = 10


@dataclass
class Assessment:
    """A step, its verdict, and what is done about it."""

    sample: Sample
    verdict: Verdict
    names: list[str]
    """Parameters with a gradient, in the model's order."""
    tensor_norms: list[float]
    """L2 norms of their gradients."""
    bad_tensors: list[str]
    """Parameters whose gradient was not finite before clipping."""
    overflow: bool
    """Whether the norm overflows fp32 although every gradient is finite."""
    clip: Clip
    """What the clipper did; for a step that it did not see, the threshold that was in force."""
    images: list[str] = field(default_factory=list)
    """Image files of the batches under suspicion."""
    apply: bool = True
    """Whether the optimizer is called; on an AMP overflow it is, and the GradScaler skips the step."""
    remedy: str = ""
    """What was done about a bad step, as a sentence."""

    @property
    def healthy(self) -> bool:
        """Whether loss and gradients are finite, so that the step may be taken."""
        return self.sample.losses_finite and self.sample.grads_finite

    @property
    def bad(self) -> bool:
        """Whether something was wrong that is not routine."""
        return self.verdict in _BAD

    def row(self, stages: dict[str, float]) -> StepRow:
        """Return the step as a row of ``steps.csv``, with the norms of its stages."""
        sample = self.sample
        taken = self.apply and self.verdict is not Verdict.AMP_OVERFLOW
        return StepRow(
            epoch=sample.epoch,
            step=sample.step,
            batch=sample.batch,
            lr=sample.lr,
            loss=sample.loss,
            grad_norm=sample.grad_norm,
            threshold=self.clip.threshold,
            clip_scale=self.clip.scale if taken else 0.0,
            amp_scale=sample.amp_scale,
            verdict=str(self.verdict),
            images=self.images if self.bad else [],
            items=sample.items,
            stages=stages,
        )

    def incident(self) -> Incident | None:
        """Return the step as an incident; None for a step that needed no remedy."""
        if not self.bad and not self.overflow:
            return None
        sample = self.sample
        return Incident(
            kind=str(self.verdict) if self.bad else "norm_overflow",
            epoch=sample.epoch,
            step=sample.step,
            batch=sample.batch,
            message=self._seen(),
            action=self.remedy,
            loss=sample.loss,
            items=sample.items,
            grad_norm=sample.grad_norm,
            amp_scale=sample.amp_scale,
            tensors=self.bad_tensors[:_TENSORS_NAMED],
            images=self.images,
        )

    def _seen(self) -> str:
        """Say in one sentence what was seen."""
        sample = self.sample
        if self.verdict is Verdict.POISONED:
            if self.healthy:
                return "batch-norm statistics were not finite although loss and gradients were"
            return "weights or optimizer state are not finite"
        if self.overflow:
            return f"the gradient norm, {sample.grad_norm:.3g}, overflows fp32 although every gradient is finite"
        if not math.isfinite(sample.loss):
            terms = ", ".join(name for name, value in sample.items.items() if not math.isfinite(value))
            return f"the loss was {sample.loss}" + (f" (in {terms})" if terms else "")
        if not sample.losses_finite:
            return "the loss of an earlier batch of the accumulation window, or of another rank, was not finite"
        if self.bad_tensors:
            return f"the loss was finite but {len(self.bad_tensors)} gradients were not, first {self.bad_tensors[0]}"
        return "loss and gradients were finite on this rank but not on another"
