"""One guarded training: what is kept from its first batch to its last, and what happens at each event."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

import torch

from yolo_gradsafe import adapter, clipping
from yolo_gradsafe.adapter import Host
from yolo_gradsafe.config import Config
from yolo_gradsafe.error_boundary import ErrorBoundary
from yolo_gradsafe.forensics.investigator import FaultInvestigator
from yolo_gradsafe.gradients.layer_groups import LayerGroups
from yolo_gradsafe.gradients.update_ratio import UpdateRatioSampler
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.incident_log import Journal
from yolo_gradsafe.inquiry import Inquiry
from yolo_gradsafe.loggers.epoch import epoch_metrics
from yolo_gradsafe.loggers.steps import StepLogger
from yolo_gradsafe.recovery.events import EventLog
from yolo_gradsafe.recovery.manager import TrainingStopped
from yolo_gradsafe.recovery.step_record import StepRecord
from yolo_gradsafe.report import build
from yolo_gradsafe.report.console import epoch_line, table
from yolo_gradsafe.report.parts import ReportError
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.state_registry import StateRegistry
from yolo_gradsafe.step import GuardedStep
from yolo_gradsafe.telemetry import Incident, Recorder, RunInfo, RunPaths
from yolo_gradsafe.telemetry.epoch_log import EpochLog
from yolo_gradsafe.telemetry.layer_log import LayerLog

__all__ = ["Session"]


class Session:
    """Guards one trainer from ``on_pretrain_routine_end`` to ``teardown``.

    Args:
        host: The trainer.
        config: The resolved options.
    """

    def __init__(self, host: Host, config: Config) -> None:
        if host.incompatibilities:
            config = _observing(config)
        self.host = host
        self.config = config
        self.summary: Summary | None = None
        self._epoch = EpochLog()
        self._epoch_number = 0
        self._recoveries = 0
        self._finished = False
        self._epoch_told = False
        self._noted = 0
        self._vanished: list[str] = []
        self._info = _run_info(host)
        telemetry = config.telemetry
        self._recorder = (
            Recorder(
                host.run, telemetry.flush_steps, telemetry.flush_seconds, host.resumed, host.epochs_done, adapter.warn
            )
            if host.is_main
            else None
        )
        self._journal = Journal(self._recorder)
        self.shield = ErrorBoundary(self._journal.fault, reraise=(TrainingStopped,))
        self._columns = telemetry.results_csv and host.accepts_columns(EpochLog().columns())
        self._window = AccumulationWindow()
        self._investigator = FaultInvestigator(host, config.forensics)
        self._log = EventLog()
        self._inquiry = Inquiry(host, self._investigator, self._window, self._journal, self._log, self.shield)
        parameters = host.named_parameters()
        self._layers = LayerLog(LayerGroups([name for name, _ in parameters], host.layout))
        self.step = GuardedStep(
            host,
            clipping.build(config.clip, host.stages()),
            config.recovery,
            self._window,
            self._layers.grouping,
            self._log,
            self.shield,
            self._inquiry.step,
            self._inquiry.micro_batch,
            self._record,
            UpdateRatioSampler(parameters, self._layers.grouping, telemetry.update_ratio_steps),
            steps=self._recorder.steps if self._recorder else 0,
        )
        self._step_logger: StepLogger | None = None
        if config.loggers.steps and host.is_main:
            self._step_logger = StepLogger(config.loggers.every, adapter.active_loggers, adapter.warn)
        self._memory = StateRegistry(config.clip.mode, self.step, self._investigator)
        if host.resumed:
            self._memory.recall(RunPaths(host.run).state, host.epochs_done)
            self._memory.share(host.ranks)

    def install(self) -> None:
        """Start the records, and take the step's place on the trainer."""
        host, config = self.host, self.config
        if self._recorder:
            self._recorder.options(config.to_yaml())
            self._recorder.info(self._info)
        host.replace_step(self.step)
        host.watch_batches(self._inquiry.open, self._window.hold)
        if config.recovery.enabled:
            host.watch_validation(self._note_validation, self._rescue_validation)
        adapter.log(f"{self._rule()}, recovery {'on' if config.recovery.enabled else 'off'}, records in {host.run}")
        if host.has_muon and config.clip.mode != "none":
            tell = adapter.log if config.clip == Config().clip else adapter.warn
            tell("clipping does not limit the Muon part of MuSGD, whose size is the learning rate's alone: lower lr0")
        if self._recorder and config.forensics.check_data:
            with self.shield("check the data"):
                self._check_data(self._recorder)
        if host.incompatibilities:
            self._note_unlike()
        elif not self.step.stands_in:
            adapter.warn("this trainer has an optimizer_step of its own: it is called as it is, but not for a bad step")

    def _check_data(self, recorder: Recorder) -> None:
        """Warn of data that would make a loss NaN or a gradient explode."""
        from yolo_gradsafe.data import quick_check

        host = self.host
        health = quick_check(
            host.data, task=host.task, imgsz=host.image_size, batch=host.batch_size, single_cls=host.single_class
        )
        if health is not None and health.warning:
            adapter.warn(health.warning)
            recorder.files.attempt(recorder.paths.health, lambda: health.save(recorder.paths.health))

    def _rule(self) -> str:
        clip = self.config.clip
        if not self.step.stands_in:
            return "the trainer's own optimizer_step clips"
        return f"clip {clip.mode}" + (f" {clip.max_norm:g}" if clip.mode == "norm" else "")

    # Events ---------------------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Start an epoch's counts; an epoch that Ultralytics starts again, after its own recovery or an OOM, too."""
        host, restorer = self.host, self.step.restorer
        if restorer.waits:
            with self.shield("take the first snapshot"), host.ranks.together():
                restorer.start_over(self.step.steps)
        restorer.pause()
        host.hide_metrics()
        self._epoch_told, self._noted = False, self._journal.noted
        if self._epoch_number == 0 and self.config.telemetry.results_csv:
            with self.shield("name W&B's axis"):
                adapter.name_epoch_axis()
        if host.epoch == self._epoch_number:
            self.step.give_up_window()
            if self.config.recovery.enabled:
                host.zero_grad()  # up to 8.4.171 Ultralytics leaves the gradients that made it redo the epoch
            if host.recoveries > self._recoveries:
                self._note_recovery()
            self.step.batchnorm.look()
            self.step.batchnorm.keep()
        self._recoveries = host.recoveries
        self._epoch, self._epoch_number = EpochLog(), host.epoch
        self._journal.epoch, self._journal.batch = host.epoch, 0
        self.step.losses.begin_epoch()
        self._journal.events(self._log.take())

    def begin_batch(self) -> None:
        """Open the batch in the window."""
        self._journal.batch += 1
        self._window.open(self.host.epoch, self._journal.batch)
        self.step.losses.begin_batch()

    def end_batch(self) -> None:
        """Keep the loss of a batch that did not close its accumulation window, or look at it; end a lost training."""
        if self._window.batches:
            self._window.batches[-1].loss = self.host.loss
            self.step.isolate(closing=False)
        self._window.let_go()
        with self.shield("record what was done"):
            self._journal.events(self._log.take())
        if self.step.medic.stopped:
            if self.config.recovery.on_exhausted == "raise":
                raise TrainingStopped(self.step.medic.stopped)
            self.host.stop()

    def end_epoch(self) -> None:
        """Add the columns, look at an open window before validation does, and say what happened."""
        if self._columns:  # first: a row without them would break results.csv, whatever fails below
            with self.shield("add columns to results.csv"):
                self.host.add_columns(self._epoch.columns())
        if self._window.batches and self.config.recovery.enabled:
            with self.step.accord.together("look at the open window"):
                self._check_open_window()
        with self.step.accord.together("look at the whole state"):
            self.step.restorer.inspect()
        self._journal.events(self._log.take())
        self.host.show_lr_times(self.step.medic.lr_factor)
        if self._recorder:
            self._recorder.flush()
            self._recorder.layers(self._layers.rows(self._epoch_number))
            self._recorder.state(self._epoch_number, self._memory.gather())
        line = epoch_line(self._epoch_number, self._epoch.counts(), self._epoch.largest_norm())
        if line and self.config.report.console:
            adapter.log(line)

    def tell_epoch(self) -> None:
        """Show an epoch's numbers to what reads only ``trainer.metrics``; once, so not after the final validation."""
        if not self._epoch_told and self.config.telemetry.results_csv:
            self.host.show_metrics(epoch_metrics(self._epoch.columns(), self._journal.noted - self._noted))
        self._epoch_told = True

    def finish(self, error: str = "") -> None:
        """Close the records and write the report, once."""
        if self._finished or not self._recorder:
            return
        self._finished = True
        if self._step_logger:
            with self.shield("send the last steps to the loggers"):
                self._step_logger.close()
        self._journal.events(self._log.take())
        self._info.finished = _now()
        self._info.error = error or self.step.medic.stopped
        self._recorder.flush()
        self._recorder.info(self._info)
        self._report(self._recorder)

    def _report(self, recorder: Recorder) -> None:
        """Write the report and show it; say what cannot be written."""
        if lost := recorder.files.lost + recorder.files.waiting:
            adapter.warn(f"{lost} lines of the records could not be written")
        plot = self.config.report.plot and self.host.plots
        try:
            self.summary = build(self.host.run, plot=plot)
        except (OSError, ReportError) as error:
            adapter.warn(f"the report could not be written: {error}")
            return
        if plot:
            self.host.register_plot(recorder.paths.plot)
        if self.config.report.console:
            adapter.log("stability summary\n" + table(self.summary))

    # Records --------------------------------------------------------------------------------------------------------

    def _note_validation(self) -> None:
        self._log.tell(
            "precision", "validation overflows in fp16, although the weights are finite", "validation goes on in fp32"
        )
        self._journal.events(self._log.take())

    def _rescue_validation(self) -> Callable[[bool], None] | None:
        """Put trusted weights in place for a validation that was not finite."""
        settle: Callable[[bool], None] | None = None
        with self.step.accord.alone("rescue a validation"):
            with self.host.ranks.together():
                found = self.step.restorer.rescue(self.step.steps)
            settle = found  # not before all ranks have come so far
        if settle is None:
            return None

        def settle_and_record(helped: bool) -> None:
            settle(helped)
            if self._recorder:
                self._recorder.state(self._epoch_number, self._memory.gather())
            self._journal.events(self._log.take())

        return settle_and_record

    def _record(self, step: StepRecord) -> None:
        self._journal.step = self.step.steps
        if step.healthy:
            self._layers.observe(step.layers)
            self._investigator.observe(step.sample.items)
        if step.update_ratios is not None:
            self._layers.observe_update(step.update_ratios)
        row = step.row(self._layers.grouping.stages)
        self._epoch.add(row)
        if self._recorder:
            self._recorder.step(row)
        if incident := step.incident():
            self._journal.note(incident)
        if step.vanished != self._vanished:
            self._vanished = step.vanished
            if step.vanished:
                stages = ", ".join(step.vanished)
                self._log.tell("stalled", f"the gradients of {stages} have vanished", "nothing: advice only")
        self._journal.events(self._log.take())
        if self._step_logger:
            with self.shield("send a step to the loggers"):
                self._step_logger.add(row)

    def _check_open_window(self) -> None:
        """Drop micro-batches that are bad but have not come to a step before the epoch ends.

        Otherwise validation and ``results.csv`` would see what they did. Synchronises, once an epoch.
        """
        step, window = self.step, self._window
        losses = [b.loss for b in window.batches if b.loss is not None]
        values = torch.stack([loss.reshape(()) for loss in losses]).tolist() if losses else []
        bad = not all(map(math.isfinite, values)) or not step.batchnorm.finite()
        if not self.host.largest([bad])[0]:
            return
        self._journal.note(
            Incident(
                kind="bad_batch",
                epoch=self.host.epoch,
                step=step.steps,
                batch=window.newest,
                message=f"the loss was {values[-1] if values else math.nan} in a batch that had not come to a step",
                action="dropped its gradients and put the batch-norm statistics back",
                loss=values[-1] if values else math.nan,
                images=window.images(values),
            )
        )
        self.host.zero_grad()
        step.batchnorm.restore()
        step.losses.repair()
        step.give_up_window()

    def _note_unlike(self) -> None:
        """Say and record, once, that this version is not known well enough to do anything to its training."""
        seen, done = (
            adapter.unknown("; ".join(self.host.incompatibilities)),
            "this training runs as stock and is only observed",
        )
        adapter.warn(f"{seen}: {done}; nothing is clipped by an option, skipped or repaired")
        if self._recorder:
            self._recorder.incident(self._journal.incident("observe_only", seen, done))

    def _note_recovery(self) -> None:
        self._journal.note(
            self._journal.incident(
                "native_recovery",
                "the epoch ended in NaN",
                "Ultralytics went back to last.pt and repeats the epoch",
            )
        )


def _observing(config: Config) -> Config:
    """Return options under which nothing is done to a training."""
    recovery = config.recovery.model_copy(update={"enabled": False})
    forensics = config.forensics.model_copy(update={"diagnoses": 0, "quarantine": 0})
    return config.model_copy(update={"recovery": recovery, "forensics": forensics})


def _run_info(host: Host) -> RunInfo:
    return RunInfo(
        task=host.task,
        model=host.model_name,
        optimizer=host.optimizer_name,
        amp=host.precision,
        batch=host.batch_size,
        epochs=host.epochs,
        device=host.device,
        started=_now(),
        environment=adapter.versions(),
    )


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
