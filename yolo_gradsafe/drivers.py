"""Who takes the optimizer step: we in place of stock's body, the trainer's own step, or either without any remedy."""

from __future__ import annotations

import math
from typing import Protocol

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.clipping import Clip, Clipper, Observation
from yolo_gradsafe.gradients.norms import Gradients
from yolo_gradsafe.judge.verdict import StepMetrics
from yolo_gradsafe.recovery.loss_scale import LossScaleKeeper
from yolo_gradsafe.recovery.outcome import Outcome

__all__ = ["ObserveOnly", "OwnStep", "StepDriver", "StockStep"]


class StepDriver(Protocol):
    """Prepares and finishes an optimizer step."""

    unscales: bool
    """Whether gradients are unscaled when they are measured."""
    acts: bool
    """Whether a bad step is skipped and looked after; otherwise it is only recorded."""
    clips: bool
    """Whether the clipper of the options is at work."""

    def begin(self) -> None:
        """Make the gradients ready to be measured. Does not synchronise."""

    def clip(self, metrics: StepMetrics, gradients: Gradients, images: int) -> Clip:
        """Clip gradients that are about to be applied.

        Args:
            metrics: The step.
            gradients: Its gradients, where they lie.
            images: Images whose losses were summed into them, over all ranks.
        """

    def unclipped(self) -> Clip:
        """Return what is recorded of a step that is not clipped: the threshold that is in force."""

    def finish(self, outcome: Outcome) -> None:
        """Call the optimizer, or give the gradients up; loss scale and EMA follow."""

    def note_good_scale(self, scale: float) -> None:
        """Note the loss scale of a step that was safe to apply."""


class StockStep:
    """Stands in for Ultralytics' own step, in its order: unscale, clip, step, update scale, zero gradients, EMA.

    Args:
        trainer: The trainer.
        clipper: What makes large gradients smaller.
        scale: Keeps the loss scale from falling through the floor.
    """

    unscales = acts = clips = True

    def __init__(self, trainer: TrainerAdapter, clipper: Clipper, scale: LossScaleKeeper) -> None:
        self._trainer = trainer
        self._clipper = clipper
        self._scale = scale
        self._threshold = math.inf

    def begin(self) -> None:
        """Unscale the gradients."""
        self._trainer.unscale()

    def clip(self, metrics: StepMetrics, gradients: Gradients, images: int) -> Clip:
        """Clip by the rule of the options."""
        seen = Observation(metrics.grad_norm, metrics.tensor_norms, max(1, images))
        clip = self._clipper.clip_(gradients, seen)
        self._threshold = clip.threshold
        return clip

    def unclipped(self) -> Clip:
        """Return the threshold that is in force."""
        return Clip(self._threshold, 1.0)

    def finish(self, outcome: Outcome) -> None:
        """Step as stock does, or skip."""
        trainer = self._trainer
        if not outcome.apply:
            trainer.skip(self._scale.after_skip(_scale_of(outcome, trainer)))
        elif not outcome.assessed:
            trainer.clip_as_stock()
            trainer.apply()
        else:
            scale = None
            if outcome.routine_overflow:
                scale = self._scale.after_overflow(outcome.amp_scale, trainer.scale_backoff)
            trainer.apply(outcome.grads_finite, outcome.lr_factor, scale)

    def note_good_scale(self, scale: float) -> None:
        """Note a scale to fall back on."""
        self._scale.note_good(scale)


class OwnStep:
    """Calls the trainer's own ``optimizer_step`` as it is, or not at all.

    Args:
        trainer: The trainer.
        scale: Keeps the loss scale from falling through the floor.
    """

    unscales = clips = False
    acts = True

    def __init__(self, trainer: TrainerAdapter, scale: LossScaleKeeper) -> None:
        self._trainer = trainer
        self._scale = scale

    def begin(self) -> None:
        """Leave the gradients as the trainer's own step expects them."""

    def clip(self, metrics: StepMetrics, gradients: Gradients, images: int) -> Clip:
        """Leave clipping to the trainer's own step."""
        return self.unclipped()

    def unclipped(self) -> Clip:
        """Return that nothing of ours clips."""
        return Clip(math.inf, 1.0)

    def finish(self, outcome: Outcome) -> None:
        """Let the trainer take its step, or skip."""
        trainer = self._trainer
        if outcome.apply:
            with trainer.lr_times(outcome.lr_factor):
                trainer.call_own_step()
        else:
            trainer.unscale()
            trainer.skip(self._scale.after_skip(_scale_of(outcome, trainer)))

    def note_good_scale(self, scale: float) -> None:
        """Note a scale to fall back on."""
        self._scale.note_good(scale)


class ObserveOnly:
    """Takes every step, also a bad one, and does nothing about it that stock would not do.

    Args:
        driver: Who takes the step.
        trainer: The trainer.
    """

    acts = False

    def __init__(self, driver: StepDriver, trainer: TrainerAdapter) -> None:
        self._driver = driver
        self._trainer = trainer
        self.unscales, self.clips = driver.unscales, driver.clips

    def begin(self) -> None:
        """Begin as the driver does."""
        self._driver.begin()

    def clip(self, metrics: StepMetrics, gradients: Gradients, images: int) -> Clip:
        """Clip healthy gradients by the rule of the options, and others as stock does."""
        if metrics.finite and not metrics.norm_overflow:
            return self._driver.clip(metrics, gradients, images)
        if self.clips:
            self._trainer.clip_as_stock()
        return self._driver.unclipped()

    def unclipped(self) -> Clip:
        """Return the driver's threshold."""
        return self._driver.unclipped()

    def finish(self, outcome: Outcome) -> None:
        """Finish as the driver does."""
        self._driver.finish(outcome)

    def note_good_scale(self, scale: float) -> None:
        """Nothing: no step is skipped."""


def _scale_of(outcome: Outcome, trainer: TrainerAdapter) -> float:
    """Return the loss scale of a step. Synchronises where the step could not be assessed."""
    return outcome.amp_scale if not math.isnan(outcome.amp_scale) else float(trainer.amp_scale)
