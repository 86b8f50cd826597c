"""The guarded optimizer step: measure, judge, act, record.

It stands in for ``BaseTrainer.optimizer_step`` and keeps stock's order: unscale, clip, step, update the scale, zero the
gradients, update the EMA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.clipping import Clip, Clipper, Observation
from yolo_gradsafe.error_boundary import ErrorBoundary
from yolo_gradsafe.gradients.layer_groups import LayerGroups
from yolo_gradsafe.gradients.norms import scaled_norm
from yolo_gradsafe.gradients.update_ratio import UpdateRatioSampler
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.judge.batchnorm import BatchNormMonitor
from yolo_gradsafe.judge.loss_trend import NO_SIGNAL, LossTrend
from yolo_gradsafe.judge.vanishing import VanishingMonitor
from yolo_gradsafe.judge.verdict import judge
from yolo_gradsafe.measurement import Measurement, Measurer
from yolo_gradsafe.rank_sync import RankSync
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow
from yolo_gradsafe.recovery.events import EventLog
from yolo_gradsafe.recovery.isolation import Isolation
from yolo_gradsafe.recovery.loss_scale import ScaleKeeper
from yolo_gradsafe.recovery.losses import ShownLosses
from yolo_gradsafe.recovery.manager import RecoveryManager
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.rollback import RollbackManager
from yolo_gradsafe.recovery.snapshot import finite
from yolo_gradsafe.recovery.step_record import StepRecord
from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["GuardedStep"]


class GuardedStep:
    """Callable that replaces ``trainer.optimizer_step``.

    Args:
        host: The trainer.
        clipper: What makes large gradients smaller.
        options: What to do with bad steps.
        window: The micro-batches that the next step is made of; filled by the caller.
        grouping: Which parameters are a layer, which layers a stage.
        log: Takes what the recovery did.
        shield: Catches the plugin's own faults; the step then falls back to stock's.
        investigate: Finds out what made a step bad, before anything is put back.
        isolated: Told that a micro-batch is about to be taken out of its window.
        record: Takes every step after it was taken or left.
        updates: Samples how far a step moves the weights.
        steps: Optimizer steps that the run has behind it, when it is resumed.
    """

    def __init__(
        self,
        host: Host,
        clipper: Clipper,
        options: RecoveryOptions,
        window: AccumulationWindow,
        grouping: LayerGroups,
        log: EventLog,
        shield: ErrorBoundary,
        investigate: Callable[[StepRecord], None],
        isolated: Callable[[], None],
        record: Callable[[StepRecord], None],
        updates: UpdateRatioSampler,
        steps: int = 0,
    ) -> None:
        self.host = host
        self.clipper = clipper
        self.options = options
        self.window = window
        self.grouping = grouping
        self.shield = shield
        self.investigate = investigate
        self.isolated = isolated
        self.record = record
        self.updates = updates
        self._threshold = math.inf
        self._statistics = BatchNormMonitor()
        self.steps = steps
        self.stands_in = host.step_is_stock
        """False when the trainer's step is not stock's: it is then called as it is, or not at all."""
        self.batchnorm = BatchNormShadow(host.batchnorm_buffers())
        self.losses = ShownLosses(host)
        self._measurer = Measurer(host, window, self.batchnorm, self._statistics, updates)
        self.restorer = RollbackManager(host, options, self.batchnorm, clipper, log)
        self.medic = RecoveryManager(host, options, self.restorer, log)
        self.isolation = Isolation(host, window, self.batchnorm, self.losses, options.isolate, options.isolate_hold)
        self.accord = RankSync(host, shield, self.restorer, self.medic, clipper, self.isolation, log)
        self._scale = ScaleKeeper(options.scale_floor, options.scale_hysteresis)
        self.vanishing = VanishingMonitor(grouping.stages)

    def __call__(self) -> None:
        """Take one optimizer step, or leave it."""
        self.isolate(closing=True)
        if self.stands_in:
            self.host.unscale()
        self.steps += 1
        step, sick = None, False
        with self.accord.alone("assess an optimizer step"):
            measured, outlook, sick = self._look()
            with self.host.ranks.together() if sick else nullcontext():
                found = self._act(measured, self._judge(measured, outlook))
            step = found  # not before all ranks have come so far
        sampled = step is not None and step.apply and self._sampled()
        self._finish(step, sick and self.options.enabled)
        if sampled:
            with self.shield("sample the updates"):
                self.updates.after()
        if step is not None:
            with self.accord.alone("look after the training"):
                self._look_after(step)
            with self.shield("record an optimizer step"):
                self.record(step)
        self.give_up_window()

    def give_up_window(self) -> None:
        """Forget the micro-batches and their gradients: the step was taken, skipped, or will not come."""
        self.window.clear()
        self.isolation.reset()

    def isolate(self, closing: bool) -> None:
        """Take the newest micro-batch out of its window if it is bad; nothing until a step has been bad.

        Args:
            closing: Whether the optimizer step follows.
        """
        if self.options.enabled and self.isolation.armed:
            done = False
            with self.accord.alone("isolate a micro-batch"):
                with self.host.ranks.together():
                    if self.isolation.bad(closing):
                        with self.accord.together("look into a bad micro-batch"):
                            self.isolated()
                        self.isolation.take_out()
                done = True
            if not done:
                self.isolation.reset()

    def _look(self) -> tuple[Measurement, LossTrend, bool]:
        """Measure, and say whether the step looks bad: on all ranks alike, with one message."""
        measured = self._measurer.measure(self.steps, self.stands_in, self.accord.opinion)
        self.accord.settle(measured.riding, self.steps - 1)
        sample, outlook = measured.sample, NO_SIGNAL
        healthy = sample.losses_finite and sample.grads_finite
        if healthy and self.options.enabled:
            self.isolation.healthy()
            outlook = self.medic.outlook(sample.image_loss, sample.grad_norm)
        return measured, outlook, not (healthy and sample.buffers_sound) or self.medic.suspects(outlook)

    def _judge(self, measured: Measurement, outlook: LossTrend) -> StepRecord:
        """Give the verdict; only a step that looks bad costs more than the one read, and is collective."""
        sample, names = measured.sample, measured.gradients.names
        overflow = sample.grads_finite and not math.isfinite(sample.grad_norm)
        if overflow:
            peak, relative = scaled_norm(measured.gradients.tensors)
            unscale = 1.0 if self.stands_in else sample.amp_scale
            sample = replace(sample, grad_norm=peak * relative / unscale)
        layers, stages = self.grouping.norms(names, measured.tensor_norms)
        healthy = sample.losses_finite and sample.grads_finite
        diverging, vanished = False, []
        if healthy and self.options.enabled:
            if self.medic.suspects(outlook):
                diverging = self.medic.diverging(outlook, sample.image_loss, self.window.content)
            vanished = self.vanishing.see(stages)
        verdict = judge(
            sample,
            self.options.scale_floor,
            state_finite=healthy or self._state_finite(),
            outlook=outlook,
            diverging=diverging,
            stalled=bool(vanished),
        )
        if verdict is Verdict.POISONED and healthy:
            verdict = self._statistics.verdict(measured.statistics_finite)
        return StepRecord(
            sample=sample,
            verdict=verdict,
            names=names,
            tensor_norms=measured.tensor_norms,
            layers=layers,
            stages=stages,
            bad_tensors=measured.bad_tensors,
            overflow=overflow,
            clip=Clip(self._threshold, 1.0),
            lr_factor=self.medic.lr_factor,
            vanished=vanished,
            update_ratios=measured.update_ratios,
        )

    def _act(self, measured: Measurement, step: StepRecord) -> StepRecord:
        """Do what the verdict asks for, up to the step itself."""
        enabled, routine = self.options.enabled, step.verdict is Verdict.AMP_OVERFLOW
        step.apply = routine or not enabled or step.harmless
        if self.stands_in and not enabled and (step.overflow or not step.healthy):
            self.host.clip_as_stock()  # observing means that a sick step does what stock's does, too
        elif self.stands_in and step.harmless:
            images = self.host.batch_size * len(self.window.kept)
            seen = Observation(step.sample.grad_norm, measured.tensor_norms, max(1, images))
            step.clip = self.clipper.clip_(measured.gradients, seen)
            self._threshold = step.clip.threshold
            if step.clip.scale < 1 and step.verdict is Verdict.OK:
                step.verdict = Verdict.CLIPPED
        if step.bad:
            step.images = self.window.images(step.sample.losses)
            with self.accord.together("look into a bad step"):
                self.investigate(step)
            if self.host.ranks.several and not step.testimony:
                step.images = []  # nobody knows which rank's they are
        if not step.bad:
            self.batchnorm.keep()
            self._statistics.keep()
        elif enabled:
            self.batchnorm.restore()
        if step.bad:
            step.remedy = self._remedy(step)
        elif step.overflow:
            done = "clipped by its true norm" if step.clip.scale < 1 else "left as it was: nothing clips"
            step.remedy = done if enabled else "observed only: stock zeroes all gradients"
        if step.harmless or routine:
            self.losses.keep()
        elif enabled and step.handled:
            self.losses.repair()
        return step

    def _remedy(self, step: StepRecord) -> str:
        """Treat a bad step, and say in one sentence what was done about it."""
        if not self.options.enabled:
            return "observed only: recovery.enabled is off"
        if step.harmless:
            if healed := self.restorer.heal("not finite, or far too large"):
                step.apply, step.steps_lost = False, 1
                return f"healed {len(healed)} tensors and skipped the step"
            return "put the batch-norm statistics back and took the step"
        self.isolation.arm()
        step.remedy, step.steps_lost = "skipped the step and put the batch-norm statistics back", 1
        treated = False
        with self.accord.alone("treat a bad step (it was skipped)"):
            with self.host.ranks.together():
                self.medic.treat(step, self.window.content)
            treated = True
        if not treated:
            self.medic.stopped = ""  # else only the ranks that came that far would end
        return step.remedy

    def _finish(self, step: StepRecord | None, sick: bool) -> None:
        """Call the optimizer as stock does, or not at all.

        Args:
            step: The step; None if it could not be assessed, which makes it stock's,
            sick: unless it is known to be bad.
        """
        host = self.host
        if step is None and sick:
            self.isolation.arm()
            if not self.stands_in:
                host.unscale()
            host.drop(self._scale.dropped(float(host.amp_scale)))
        elif step is not None and not step.apply:
            if not self.stands_in:
                host.unscale()
            host.drop(self._scale.dropped(step.sample.amp_scale))
        elif not self.stands_in:
            with host.lr_times(self.medic.lr_factor):
                host.own_step()
        elif step is None:
            host.clip_as_stock()
            host.apply()
        else:
            scale = None
            if step.verdict is Verdict.AMP_OVERFLOW and self.options.enabled:
                scale = self._scale.overflow(step.sample.amp_scale, host.scale_backoff)
            host.apply(step.sample.grads_finite, step.lr_factor, scale)

    def _look_after(self, step: StepRecord) -> None:
        """Count a step that did no harm: prove snapshots, take remedies back."""
        if not step.harmless or not self.options.enabled:
            return
        self._scale.healthy(step.sample.amp_scale)
        self.medic.healthy(self.steps, step.sample.lr * step.lr_factor)

    def _sampled(self) -> bool:
        """Sample the weights before this step, if it is its turn."""
        sampled = False
        if self.updates.due(self.steps):
            with self.shield("sample the updates"):
                self.updates.before()
                sampled = True
        return sampled

    def _state_finite(self) -> bool:
        return not self.host.largest([not finite(self.host.state.lasting())])[0]
