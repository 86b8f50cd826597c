"""One guarded training, event by event, from ``on_pretrain_routine_end`` to ``teardown``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.config import Config
from yolo_gradsafe.recovery.manager import TrainingStopped
from yolo_gradsafe.run_log import RunLog
from yolo_gradsafe.state_registry import StateRegistry
from yolo_gradsafe.step import GuardedStep
from yolo_gradsafe.telemetry import Recorder, RunPaths
from yolo_gradsafe.telemetry.files import read_states
from yolo_gradsafe.telemetry.schema import Kind, Place, Remedy

__all__ = ["Session"]


class Session:
    """Guards one trainer. It lives on the trainer, and goes with it.

    Args:
        trainer: The trainer.
        config: The resolved options.
        step: Takes the place of the trainer's step.
        log: What is written of the training.
        registry: What learns, to go on from when the run is resumed.
        recorder: Writes the files; None on ranks that do not.
    """

    def __init__(
        self,
        trainer: TrainerAdapter,
        config: Config,
        step: GuardedStep,
        log: RunLog,
        registry: StateRegistry,
        recorder: Recorder | None,
    ) -> None:
        self.trainer = trainer
        self.step = step
        self.log = log
        self.registry = registry
        self.boundary = step.sync.boundary
        self._config = config
        self._recorder = recorder
        self._recovery = step.recovery
        self._rollback = step.recovery.rollback
        self._window = step.window
        self._savepoint = step.savepoint
        self._progress = step.progress
        self._native_recoveries = 0
        self._told_of_unbounded = False

    def start(self) -> None:
        """Begin the records or go on from those of a resumed run, and take the step's place. Collective."""
        trainer, config = self.trainer, self._config
        self._recovery.investigator.start()
        if self._recorder:
            self._recorder.start(trainer.resumed, trainer.epochs_done if trainer.resumed else None)
            self._progress.step = self._recorder.steps
        if trainer.resumed:
            self._resume()
        self.log.start()
        trainer.replace_step(self.step)
        trainer.watch_batches(self._open_batch, self._window.hold_batch)
        if config.recovery.enabled:
            trainer.watch_validation(self._note_validation, self._rescue_validation)
        self._announce()
        if config.forensics.check_data:
            with self.boundary("check the data"):
                self.log.check_data()
        if trainer.incompatibilities:
            self._note_incompatibilities()
        elif not trainer.step_is_stock:
            adapter.warn(
                "this trainer has its own optimizer_step: it is called for every step except bad ones, and does its "
                "own clipping"
            )

    # Events ---------------------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Start an epoch's counts; an epoch that Ultralytics starts again, after its own recovery or an OOM, too."""
        trainer = self.trainer
        self._window.release_batch()  # Ultralytics has left it, if its memory was too small for it
        self._follow_model()
        if self._rollback.needs_first_snapshot:
            with self.boundary("take the first snapshot"), trainer.ranks.collective():
                self._rollback.restart(self._progress.step)
        self._rollback.pause_clock()
        trainer.hide_metrics()
        if self._progress.epoch == 0 and self._config.telemetry.results_csv:
            with self.boundary("name W&B's axis"):
                adapter.name_epoch_axis()
        with self.boundary("look after the EMA"):
            self._recovery.rate.begin_epoch()
        self.log.begin_epoch()
        repeated = trainer.epoch == self._progress.epoch
        self._progress.begin_epoch(trainer.epoch)
        if repeated:
            self._repeat_epoch()
        self._native_recoveries = trainer.recoveries
        self._savepoint.losses.begin_epoch()

    def begin_batch(self) -> None:
        """Open the batch in the window."""
        self._progress.begin_batch()
        if self._progress.batch == 1:
            self._follow_model()  # the user's callbacks on the epoch's start come after the guard's
        self._window.open(self._progress.epoch, self._progress.batch)
        self._savepoint.losses.begin_batch()

    def end_batch(self) -> None:
        """Keep the loss of a batch that did not close its accumulation window, or look at it; end a lost training."""
        if self._window.batches:
            self._window.set_loss(self.trainer.loss)
            self.step.isolate(closing=False)
        self._window.release_batch()
        if self.step.stopped:
            if self._config.recovery.on_exhausted == "raise":
                raise TrainingStopped(self.step.stopped)
            self.trainer.stop()

    def end_epoch(self) -> None:
        """Look at an open window and the whole state before validation does, say what happened.

        An epoch without a step, as with much accumulation, has the gradients that have gathered to show.
        """
        if self._window.batches and self._config.recovery.enabled:
            with self.step.sync.collective("look at the open window"):
                self._skip_open_window()
        with self.step.sync.collective("look at the whole state"):
            self._rollback.check_state()
        if self._window.batches and self.log.needs_norm:
            with self.boundary("measure the gradients that have gathered"):
                self.log.gathered(*self.step.measurement.gathered())
        if self.trainer.state.unbounded and self._config.recovery.enabled:
            with self.boundary("look at the EMA's masks"):
                self._refill_unbounded()
        self.trainer.show_lr_times(self._recovery.rate.factor)
        self.log.end_epoch(self._progress.epoch, self._state())

    def tell_epoch(self) -> None:
        """Show an epoch's numbers to the loggers."""
        self.log.tell_epoch()

    def finish(self, error: str = "") -> None:
        """Close the records and write the report, once."""
        self._close_recovery()
        self.log.finish(error or self.step.stopped)

    def release(self) -> None:
        """Let go of the trainer: it gets its methods back, and its model is as it was."""
        self._close_recovery()
        self.trainer.release()

    # ----------------------------------------------------------------------------------------------------------------

    def _close_recovery(self) -> None:
        with self.boundary("put the momentum of batch norm back"):
            self._recovery.rate.close()

    def _follow_model(self) -> None:
        """Guard the layers that a callback of the user has put in, and give up the snapshots of those before."""
        with self.boundary("follow the model"):
            if not self.step.follow_model():
                return
            self.log.follow_model()
            if self._rollback.snapshot_interval:
                with self.trainer.ranks.collective():
                    self._rollback.restart(self._progress.step)

    def _open_batch(self, batch: Any) -> None:
        """Keep quarantined images out of a batch that comes from the loader, and note what it is made of.

        From the first one on a resumed run trains in the precision that it had been raised to.
        """
        with self.boundary("raise the precision as before"):
            self._recovery.precision.resume()
        with self.boundary("keep images in quarantine"):
            self._recovery.investigator.quarantine.apply(batch)
        with self.boundary("note a batch's images"):
            self._window.set_images(batch)

    def _repeat_epoch(self) -> None:
        """Forget what was gathered of an epoch that Ultralytics starts again."""
        trainer = self.trainer
        trainer.memory.forget_peak()
        self._recovery.isolation.close_window()
        if self._config.recovery.enabled:
            trainer.zero_grad()  # up to 8.4.171 Ultralytics leaves the gradients that made it redo the epoch
        if trainer.recoveries > self._native_recoveries:
            self.log.incidents.log(Kind.NATIVE_RECOVERY)
        self._savepoint.renew()

    def _skip_open_window(self) -> None:
        """Give up micro-batches that are bad but have not come to a step before the epoch ends."""
        isolation, window = self._recovery.isolation, self._window
        losses = isolation.skip_open_window()
        if losses is None:
            return
        self.log.incidents.log(
            Kind.BAD_BATCH,
            place=Place.OPEN_WINDOW,
            remedies=(Remedy.MICRO_BATCH_DROPPED,),
            batch=window.newest,
            images=window.images(losses),
            **({"loss": losses[-1]} if losses else {}),
        )
        isolation.close_window()

    def _refill_unbounded(self) -> None:
        """Keep NaN out of what is validated and saved, where averaging has made it of an infinite mask."""
        if (names := self.trainer.state.refill_unbounded()) and not self._told_of_unbounded:
            self._told_of_unbounded = True
            adapter.warn(f"the EMA of Ultralytics cannot average {', '.join(names)}: it gets the model's values")

    def _note_validation(self) -> None:
        with self.boundary("note that validation went over to fp32"):
            self.log.incidents.log(
                Kind.PRECISION,
                place=Place.VALIDATION,
                remedies=(Remedy.PRECISION_RAISED,),
                precision="fp32",
                precision_before="fp16",
            )
            self.log.incidents.flush()

    def _rescue_validation(self, terms: list[str]) -> Callable[[bool], bool] | None:
        """Put trusted weights in place for a validation whose losses are not finite (which, is said), or absurd."""
        settle: Callable[[bool], bool] | None = None
        with self.step.sync.local("rescue a validation"):
            with self.trainer.ranks.collective():
                found = self._recovery.rescue_validation(self._progress.step, terms)
            settle = found  # not before all ranks have come so far
        if settle is None:
            return None

        def settle_and_record(helped: bool) -> bool:
            kept = False
            with self.step.sync.local("settle a rescued validation"):
                kept = settle(helped)
                self.log.save_state(self._progress.epoch, self._state())
                self.log.incidents.flush()
            return kept

        return settle_and_record

    def _announce(self) -> None:
        """Say that the training is guarded, and how."""
        trainer, clip = self.trainer, self._config.clip
        rule = "the trainer's own optimizer_step clips"
        if self.step.driver.clips:
            rule = f"clip {clip.mode}" + (f" {clip.max_norm:g}" if clip.mode == "norm" else "")
        state = "on" if self._config.recovery.enabled else "off"
        adapter.log(f"{rule}, recovery {state}, records in {trainer.run}")
        if trainer.has_muon and clip.mode != "none":
            tell = adapter.log if clip == Config().clip else adapter.warn
            tell("clipping does not limit the Muon part of MuSGD; if training diverges, lower lr0 instead")

    def _note_incompatibilities(self) -> None:
        """Say and record, once, that this version is not known well enough to do anything to its training."""
        seen = adapter.unknown("; ".join(self.trainer.incompatibilities))
        adapter.warn(
            f"{seen}: GradSafe only observes this training; it does not clip by your options, skip or repair anything"
        )
        self.log.incidents.log(Kind.OBSERVE_ONLY, detail=seen)
        self.log.incidents.flush()

    # State ----------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {"mode": self._config.clip.mode, **self.registry.state_dict()}

    def _resume(self) -> None:
        """Go on from the newest state that is not later than the checkpoint; warn where there is none that fits.

        All ranks go on from what rank 0 read: other machines may not see its files.
        """
        trainer, path = self.trainer, RunPaths(self.trainer.run).state
        try:
            states = read_states(path)
            epochs = [epoch for epoch in states if epoch <= trainer.epochs_done]
            if epochs:
                for part, error in self.registry.load_parts(self._fitting(states[max(epochs)])).items():
                    adapter.warn(f"{path}: {part} cannot be used, and starts from the beginning: {error}")
            elif states:
                adapter.warn(
                    f"{path} has no state of epoch {trainer.epochs_done} or earlier; clipping and recovery start "
                    "from the beginning"
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            adapter.warn(f"{path} cannot be used; clipping and recovery start from the beginning: {error}")
        if trainer.ranks.several:
            shared = trainer.ranks.broadcast_object({**self._state(), "step": self._progress.step})
            self._progress.step = shared["step"]
            self.registry.load_state_dict(self._fitting(shared))

    def _fitting(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state without what is of another clipping mode."""
        same = state["mode"] == self._config.clip.mode
        return {name: part for name, part in state.items() if same or name != "clipper"}
