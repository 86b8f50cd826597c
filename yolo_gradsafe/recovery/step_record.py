"""One optimizer step, from what was measured to what is recorded of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from yolo_gradsafe.clipping import Clip
from yolo_gradsafe.judge.verdict import StepMetrics
from yolo_gradsafe.telemetry.schema import Incident, StepRow, Verdict

__all__ = ["StepRecord"]

_BAD = (Verdict.BAD_BATCH, Verdict.POISONED, Verdict.DIVERGING)
_TENSORS_NAMED = 10


@dataclass
class StepRecord:
    """A step, its verdict, and what is done about it."""

    sample: StepMetrics
    verdict: Verdict
    names: list[str]
    """Parameters with a gradient, in the model's order."""
    tensor_norms: list[float]
    """L2 norms of their gradients."""
    layers: NDArray[np.float64]
    """L2 norms of the layers' gradients."""
    stages: NDArray[np.float64]
    """L2 norms of the stages' gradients."""
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
    culprit: str = ""
    """What was found to be the matter, as a sentence."""
    layer: str = ""
    """First module that went wrong."""
    term: str = ""
    """First loss term that went wrong."""
    picture: str = ""
    """Contact sheet of the batch, relative to the run's folder."""
    cause: str = ""
    """Where a bad step came from, as far as it was looked into: ``data``, ``precision``, ``weights``, ``transient``."""
    testimony: str = ""
    """What the rank that knows best saw, where there are several."""
    steps_lost: int = 0
    """Optimizer steps that were given up for it, itself among them."""
    handled: bool = True
    """Whether a bad step was dealt with; if not, it must still reach Ultralytics' own recovery."""
    vanished: list[str] = field(default_factory=list)
    """Stages whose gradients have vanished for long."""
    update_ratios: NDArray[np.float64] | None = None
    """Update-to-weight ratio of each layer in an earlier step, when a sample has just become known."""
    lr_factor: float = 1.0
    """What the host's learning rate was multiplied with."""

    @property
    def healthy(self) -> bool:
        """Whether loss and gradients are finite."""
        return self.sample.losses_finite and self.sample.grads_finite

    @property
    def harmless(self) -> bool:
        """Whether the step may be taken: finite, and not one of a divergence."""
        return self.healthy and self.verdict not in (Verdict.DIVERGING, Verdict.BAD_BATCH)

    @property
    def bad(self) -> bool:
        """Whether something was wrong that is not routine."""
        return self.verdict in _BAD

    def row(self, stage_names: Sequence[str]) -> StepRow:
        """Return the step as a row of ``steps.csv``."""
        sample = self.sample
        taken = self.apply and self.verdict is not Verdict.AMP_OVERFLOW
        return StepRow(
            epoch=sample.epoch,
            step=sample.step,
            batch=sample.batch,
            lr=sample.lr * self.lr_factor,
            lr_factor=self.lr_factor,
            loss=sample.loss,
            grad_norm=sample.grad_norm,
            threshold=self.clip.threshold,
            clip_scale=self.clip.scale if taken else 0.0,
            amp_scale=sample.amp_scale,
            verdict=str(self.verdict),
            images=self.images if self.bad else [],
            items=sample.items,
            stages={f"norm/{n}": float(v) for n, v in zip(stage_names, self.stages, strict=True)},
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
            message=self.testimony or self.seen,
            action=self.remedy,
            loss=sample.loss,
            items=sample.items,
            grad_norm=sample.grad_norm,
            amp_scale=sample.amp_scale,
            tensors=self.bad_tensors[:_TENSORS_NAMED],
            images=self.images,
            cause=self.cause,
            culprit=self.culprit,
            layer=self.layer,
            term=self.term,
            picture=self.picture,
            steps_lost=self.steps_lost,
        )

    @property
    def seen(self) -> str:
        """Say in one sentence what was seen."""
        sample = self.sample
        if self.verdict is Verdict.DIVERGING:
            if not sample.buffers_sound:
                return "batch-norm statistics overflow in every step"
            return f"the loss, {sample.loss:.3g}, is far out of its range, and trusted weights do better on this batch"
        if self.verdict is Verdict.POISONED:
            if self.healthy:
                return "batch-norm statistics were not finite, or blown up, although loss and gradients were fine"
            return "weights, statistics or optimizer state were not finite"
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
