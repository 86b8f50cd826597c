"""The guarded optimizer step: measure, judge, clip or recover, settle, finish, record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from yolo_gradsafe.drivers import StepDriver
from yolo_gradsafe.gradients.norms import Gradients
from yolo_gradsafe.judge.history import History
from yolo_gradsafe.judge.verdict import Evidence, Signals, StepMetrics, judge, safe_to_apply
from yolo_gradsafe.measurement import Measurement
from yolo_gradsafe.rank_sync import RankFlags, RankSync
from yolo_gradsafe.recovery.manager import RecoveryManager
from yolo_gradsafe.recovery.outcome import UNASSESSED, Outcome, Settle
from yolo_gradsafe.telemetry.incident_log import Progress
from yolo_gradsafe.telemetry.schema import Remedy, Verdict

__all__ = ["GuardedStep", "Record"]

Record = Callable[[StepMetrics, Verdict, Outcome], None]


class GuardedStep:
    """Callable that replaces ``trainer.optimizer_step``.

    A fault of the plugin on the way leaves a step that looked healthy to stock, and one that did not is skipped.

    Args:
        driver: Takes the step, or leaves it.
        measurement: Reads what is judged.
        history: What the steps before say of this one.
        recovery: Finds out what is wrong with a bad step, and does something about it.
        sync: Contains the plugin's own faults, and keeps the ranks together.
        progress: Counts the steps.
        record: Takes every step that was assessed, after it was taken or left.
    """

    def __init__(
        self,
        driver: StepDriver,
        measurement: Measurement,
        history: History,
        recovery: RecoveryManager,
        sync: RankSync,
        progress: Progress,
        record: Record,
    ) -> None:
        self.driver = driver
        self.measurement = measurement
        self.history = history
        self.recovery = recovery
        self.sync = sync
        self.progress = progress
        self.record = record
        self.window = measurement.window
        self.savepoint = measurement.savepoint
        self.stopped = ""
        """Why training has to end; empty while it goes on."""

    def __call__(self) -> None:
        """Take one optimizer step, or leave it. Synchronises once where the step is healthy."""
        self.isolate(closing=True)
        self.driver.begin()
        self.progress.begin_step()
        outcome = UNASSESSED
        with self.sync.local("assess an optimizer step"):
            metrics, gradients = self._measure()
            signals = self.history.observe(metrics)
            suspect = self.recovery.suspects(metrics, signals)
            if suspect and self.driver.acts:
                outcome = replace(UNASSESSED, apply=False)
            with self.sync.ranks.collective() if suspect else nullcontext():
                evidence = self.recovery.examine(metrics, signals, self.window.content)
                verdict = judge(metrics, signals, evidence, self.recovery.options.scale_floor)
                if self.driver.acts:
                    self.recovery.limit_lr(metrics, signals, evidence)
                    self.recovery.rate.follow_user(metrics)
                if verdict.bad:
                    decided = self._recover(metrics, gradients, verdict, evidence)
                else:
                    decided = self._clip(metrics, gradients, verdict)
            self.savepoint.settle(decided)
            outcome = decided  # not before all ranks have come so far
        self.driver.finish(outcome)
        if not outcome.assessed and not outcome.apply:
            self.recovery.isolation.arm()
        elif outcome.assessed:
            with self.sync.local("look after the training"):
                self.measurement.updates.note_step(outcome.apply, metrics.lr_share * outcome.lr_factor)
                self._learn(metrics, verdict, signals, outcome)
            self.stopped = self.stopped or outcome.stop
            with self.sync.boundary("record an optimizer step"):
                self.record(metrics, verdict, outcome)
        self.recovery.isolation.close_window()

    def follow_model(self) -> bool:
        """Guard the tensors that the model has now; return whether it is another model than before."""
        another = self.measurement.follow_model()
        if another:
            self.history.follow_model(self.measurement.groups.stages)
            self.recovery.investigator.forget()
        return another

    def isolate(self, closing: bool) -> None:
        """Take the newest micro-batch out of its window if it is bad; nothing until a step has been bad.

        Args:
            closing: Whether the optimizer step follows.
        """
        isolation, done = self.recovery.isolation, False
        if not isolation.armed:
            return
        with self.sync.collective("isolate a micro-batch"):
            if isolation.newest_is_bad(closing):
                with self.sync.collective("look into a bad micro-batch"):
                    self.recovery.investigator.micro_batch()
                isolation.skip_newest()
            done = True
        if not done:
            isolation.forget_gradients()

    def _measure(self) -> tuple[StepMetrics, Gradients]:
        """Read the step, and tell the other ranks what they have to know; one read, one message."""
        flags = self.sync.local_flags().pack()
        metrics, gradients, agreed = self.measurement.measure(self.progress.step, self.driver.unscales, flags)
        self.sync.apply(RankFlags.unpack(agreed), self.progress.step - 1)
        return metrics, gradients

    def _clip(self, metrics: StepMetrics, gradients: Gradients, verdict: Verdict) -> Outcome:
        """Make the gradients of a step that needs no remedy smaller, if they are too large."""
        overflow = verdict is Verdict.AMP_OVERFLOW
        clips = not (overflow and self.driver.acts)  # GradScaler skips it
        clip = self.driver.clip(metrics, gradients, self._images()) if clips else self.driver.unclipped()
        remedies: tuple[Remedy, ...] = ()
        if metrics.norm_overflow:
            remedies = (Remedy.CLIPPED,) * (clip.scale < 1) if self.driver.acts else (Remedy.OBSERVED,)
        return Outcome(
            routine_overflow=overflow and self.driver.acts,
            clip=clip,
            lr_factor=self.recovery.rate.factor,
            statistics=Settle.COMMIT,
            losses=Settle.COMMIT,
            grads_finite=metrics.grads_finite,
            amp_scale=metrics.amp_scale,
            remedies=remedies,
        )

    def _recover(self, metrics: StepMetrics, gradients: Gradients, verdict: Verdict, evidence: Evidence) -> Outcome:
        """Find out what is wrong with a bad step, and do about it what helps."""
        recovery, driver, safe = self.recovery, self.driver, safe_to_apply(metrics, verdict)
        facts: dict[str, Any] = {}
        with self.sync.collective("look into a bad step"):
            facts = recovery.investigate(metrics, verdict, evidence)
        outcome = Outcome(
            apply=safe or not driver.acts,
            clip=driver.clip(metrics, gradients, self._images()) if safe or not driver.acts else driver.unclipped(),
            lr_factor=recovery.rate.factor,
            grads_finite=metrics.grads_finite,
            amp_scale=metrics.amp_scale,
            facts=facts,
        )
        if not driver.acts:
            losses = Settle.COMMIT if safe else Settle.LEAVE
            return replace(outcome, losses=losses, remedies=(Remedy.OBSERVED,))
        self.savepoint.buffers.rollback()  # before the state is looked at
        if safe:
            return recovery.repair_statistics(outcome)
        recovery.isolation.arm()
        outcome = replace(
            outcome,
            statistics=Settle.ROLLBACK,
            losses=Settle.ROLLBACK,
            remedies=(Remedy.SKIPPED, Remedy.STATISTICS_RESTORED),
            facts={**facts, "steps_lost": 1},
        )
        with self.sync.local("treat a bad step (it was skipped)"):
            with self.sync.ranks.collective():
                treated = recovery.handle_bad_step(metrics, verdict, outcome)
            outcome = treated  # not before all ranks have come so far
        return outcome

    def _learn(self, metrics: StepMetrics, verdict: Verdict, signals: Signals, outcome: Outcome) -> None:
        """Learn from a step that was taken or left: what is usual, and which snapshots are proven."""
        if not verdict.bad:
            self.history.commit(metrics)
        if self.driver.acts and outcome.taken and safe_to_apply(metrics, verdict):
            self.driver.note_good_scale(metrics.amp_scale)
            self.recovery.count_safe_step(metrics, signals, outcome)

    def _images(self) -> int:
        """Images whose losses were summed into the gradients, over all ranks.

        With several ranks a last batch that is smaller counts as a full one: all of them must clip alike.
        """
        if self.sync.ranks.several or not self.window.images_kept:
            return self.measurement.trainer.batch_size * len(self.window.kept)
        return self.window.images_kept
