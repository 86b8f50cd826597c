"""The guarded optimizer step: measure, judge, act, record.

It stands in for ``BaseTrainer.optimizer_step`` and keeps stock's order: unscale, clip, step, update the scale, zero the
gradients, update the EMA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_gradsafe.clipping import Clip, Clipper, Observation
from yolo_gradsafe.config import RecoveryOptions
from yolo_gradsafe.forensics.window import BatchWindow
from yolo_gradsafe.gradients import Gradients, Meter, Reading, scaled_norm
from yolo_gradsafe.port import Host
from yolo_gradsafe.recovery.assessment import Assessment
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow
from yolo_gradsafe.recovery.losses import ShownLosses
from yolo_gradsafe.recovery.verdict import Sample, judge
from yolo_gradsafe.shield import Shield
from yolo_gradsafe.telemetry.schema import Verdict
from yolo_gradsafe.updates import UpdateSampler

__all__ = ["GuardedStep"]


@dataclass(frozen=True)
class _Measured:
    gradients: Gradients
    tensor_norms: list[float]
    bad_tensors: list[str]
    sample: Sample


class GuardedStep:
    """Callable that replaces ``trainer.optimizer_step``.

    Args:
        host: The trainer.
        clipper: What makes large gradients smaller.
        options: What to do with bad steps.
        window: The micro-batches that the next step is made of; filled by the caller.
        shield: Catches the plugin's own faults; the step then falls back to stock's.
        record: Takes every step after it was taken or left.
        updates: Samples how far a step moves the weights,
        update_steps: once in so many steps; 0 for never.
        steps: Optimizer steps that the run has behind it, when it is resumed.
    """

    def __init__(
        self,
        host: Host,
        clipper: Clipper,
        options: RecoveryOptions,
        window: BatchWindow,
        shield: Shield,
        record: Callable[[Assessment], None],
        updates: UpdateSampler,
        update_steps: int = 0,
        steps: int = 0,
    ) -> None:
        self.host = host
        self.clipper = clipper
        self.options = options
        self.window = window
        self.shield = shield
        self.record = record
        self.updates = updates
        self.update_steps = update_steps
        self.update_ratios: NDArray[np.float64] | None = None
        """Update-to-weight ratio of each layer, when a sample has just become known."""
        self._pending: Tensor | None = None
        self._threshold = math.inf
        self.steps = steps
        self.skipped_in_a_row = 0
        self.stands_in = host.step_is_stock
        """False when the trainer's step is not stock's: it is then called as it is, or not at all."""
        self.batchnorm = BatchNormShadow(host.batchnorm_buffers())
        self.losses = ShownLosses(host)
        self.meter = Meter(host.named_parameters())

    def __call__(self) -> None:
        """Take one optimizer step, or leave it."""
        if self.stands_in:
            self.host.unscale()
        step = None
        with self.shield("assess an optimizer step (stock's step was taken)"):
            measured = self._measure()
            step = self._act(measured, self._judge(measured))
        sampled = step is not None and step.apply and self._sample_now()
        self._finish(step)
        if sampled:
            with self.shield("sample the updates"):
                self._pending = self.updates.after()
        if step is not None:
            with self.shield("record an optimizer step"):
                self.record(step)
        self.window.clear()

    def _measure(self) -> _Measured:
        """Read all that is judged from the device, at once."""
        host = self.host
        self.steps += 1
        names, items = host.loss_items()
        losses = torch.stack([loss.reshape(()) for loss in self.window.losses(host.loss)])
        scale = host.amp_scale
        waiting, self._pending = [] if self._pending is None else [self._pending], None
        gradients, reading = self.meter.measure(
            [self.batchnorm.look(), scale, losses, items, *waiting], None if self.stands_in else scale
        )
        buffers_norm, amp_scale, *values = reading.scalars
        terms, rest = values[len(losses) :][: len(names)], values[len(losses) + len(names) :]
        self.update_ratios = self.updates.ratios(rest) if waiting else None
        bad_tensors = _bad_tensors(gradients, reading)
        losses_bad, grads_bad, buffers_bad = host.any_rank(
            [
                not all(map(math.isfinite, values[: len(losses)])),
                bool(bad_tensors),
                not (math.isfinite(buffers_norm) or self.batchnorm.finite()),
            ]
        )
        sample = Sample(
            epoch=host.epoch,
            step=self.steps,
            batch=self.window.newest,
            lr=host.lr,
            losses=values[: len(losses)],
            items=dict(zip(names, terms, strict=True)),
            grad_norm=reading.norm,
            losses_finite=not losses_bad,
            grads_finite=not grads_bad,
            buffers_finite=not buffers_bad,
            scaler=host.scaler_enabled,
            amp_scale=amp_scale,
        )
        return _Measured(gradients, reading.tensor_norms, bad_tensors, sample)

    def _judge(self, measured: _Measured) -> Assessment:
        """Give the verdict; only a step that looks bad costs more than the one read."""
        sample = measured.sample
        overflow = sample.grads_finite and not math.isfinite(sample.grad_norm)
        if overflow:
            peak, relative = scaled_norm(measured.gradients.tensors)
            unscale = 1.0 if self.stands_in else sample.amp_scale
            sample = replace(sample, grad_norm=peak * relative / unscale)
        healthy = sample.losses_finite and sample.grads_finite
        verdict = judge(sample, self.options.scale_floor, state_finite=healthy or self._state_finite())
        names, untouched = measured.gradients.names, Clip(self._threshold, 1.0)
        return Assessment(sample, verdict, names, measured.tensor_norms, measured.bad_tensors, overflow, untouched)

    def _act(self, measured: _Measured, step: Assessment) -> Assessment:
        """Do what the verdict asks for, up to the step itself."""
        routine = step.verdict is Verdict.AMP_OVERFLOW
        step.apply = step.healthy or routine or not self.options.enabled
        if self.stands_in and not self.options.enabled and (step.overflow or not step.healthy):
            self.host.clip_as_stock()  # observing means that a sick step does what stock's does, too
        elif self.stands_in and step.healthy:
            images = self.host.batch_size * len(self.window.batches)
            seen = Observation(step.sample.grad_norm, measured.tensor_norms, max(1, images))
            step.clip = self.clipper.clip_(measured.gradients, seen)
            self._threshold = step.clip.threshold
            if step.clip.scale < 1 and step.verdict is Verdict.OK:
                step.verdict = Verdict.CLIPPED
        if not step.bad:
            self.batchnorm.keep()
        elif self.options.enabled:
            self.batchnorm.restore()
        if step.healthy or routine:
            self.skipped_in_a_row = 0
            self.losses.keep()
        else:
            self.skipped_in_a_row += 1
            # A NaN that nobody handles must still reach Ultralytics' own recovery at the end of the epoch.
            if self.options.enabled and step.verdict is not Verdict.POISONED and not self._too_many:
                self.losses.repair()
        if step.bad:
            step.images = self.window.images(step.sample.losses)
            step.remedy = self._remedy(step)
        elif step.overflow:
            done = "clipped by its true norm" if step.clip.scale < 1 else "left as it was: nothing clips"
            step.remedy = done if self.options.enabled else "observed only: stock zeroes all gradients"
        return step

    def _finish(self, step: Assessment | None) -> None:
        """Call the optimizer as stock does, or not at all."""
        host = self.host
        if step is not None and not step.apply:
            if not self.stands_in:
                host.unscale()
            host.drop(step.sample.amp_scale)
        elif not self.stands_in:
            host.own_step()
        elif step is None:
            host.clip_as_stock()
            host.apply()
        else:
            host.apply(finite=step.sample.grads_finite)

    def _sample_now(self) -> bool:
        """Sample the weights before this step, if it is its turn."""
        if not self.update_steps or self.steps % self.update_steps:
            return False
        sampled = False
        with self.shield("sample the updates"):
            self.updates.before()
            sampled = True
        return sampled

    @property
    def _too_many(self) -> bool:
        return self.skipped_in_a_row > self.options.max_skips

    def _remedy(self, step: Assessment) -> str:
        """Say in one sentence what was done about a bad step."""
        if not self.options.enabled:
            return "observed only: recovery.enabled is off"
        if step.healthy:
            return "put the batch-norm statistics back and took the step"
        if step.verdict is Verdict.POISONED:
            return "skipped the step and left the rest to Ultralytics' own recovery"
        done = "skipped the step and put the batch-norm statistics back"
        return (
            f"{done}; {self.skipped_in_a_row} in a row, left to Ultralytics' own recovery" if self._too_many else done
        )

    def _state_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self.host.state_tensors())


def _bad_tensors(gradients: Gradients, reading: Reading) -> list[str]:
    """Name the gradients with a non-finite element; costs something only when the norm is not finite."""
    if math.isfinite(reading.norm):
        return []
    suspects = [i for i, norm in enumerate(reading.tensor_norms) if not math.isfinite(norm)]
    return [gradients.names[i] for i in suspects if not bool(gradients.tensors[i].isfinite().all())]
