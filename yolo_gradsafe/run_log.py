"""Everything that is written of one training: steps, incidents, epochs, layers, loggers, and the report at the end."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.config import Config
from yolo_gradsafe.error_boundary import ErrorBoundary
from yolo_gradsafe.forensics.investigator import seen
from yolo_gradsafe.gradients.layer_groups import LayerGroups
from yolo_gradsafe.judge.verdict import StepMetrics, clipped
from yolo_gradsafe.loggers.epoch import epoch_metrics
from yolo_gradsafe.loggers.steps import StepLogger
from yolo_gradsafe.recovery.outcome import Outcome
from yolo_gradsafe.report import build
from yolo_gradsafe.report.console import epoch_line, table
from yolo_gradsafe.report.parts import ReportError
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.telemetry import Incident, Recorder, RunInfo, StepRow
from yolo_gradsafe.telemetry.epoch_log import EpochLog
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.layer_log import LayerLog
from yolo_gradsafe.telemetry.notify import masked
from yolo_gradsafe.telemetry.schema import Kind, Verdict

__all__ = ["RunLog", "warn_of_hopeless_data"]


class RunLog:
    """Writes the records of one training. On ranks that write no files it only counts.

    Args:
        trainer: The trainer.
        config: The resolved options.
        recorder: Writes the files; None on ranks that do not.
        incidents: What needed a remedy.
        groups: Which parameters are a layer, which layers a stage.
        boundary: Contains the plugin's own faults.
    """

    def __init__(
        self,
        trainer: TrainerAdapter,
        config: Config,
        recorder: Recorder | None,
        incidents: IncidentLog,
        groups: LayerGroups,
        boundary: ErrorBoundary,
    ) -> None:
        self.summary: Summary | None = None
        """The summary, once the report is written."""
        self.incidents = incidents
        self._trainer = trainer
        self._config = config
        self._recorder = recorder
        self._groups = groups
        self._boundary = boundary
        self._layers = LayerLog(groups)
        self._epoch = EpochLog()
        self._epoch_told = False
        self._incidents_before = 0
        self._finished = False
        self._info = _run_info(trainer)
        self._step_logger: StepLogger | None = None
        if config.loggers.steps and recorder:
            self._step_logger = StepLogger(config.loggers.every, adapter.active_loggers, adapter.warn)

    def start(self) -> None:
        """Begin the files of the run."""
        if self._config.telemetry.results_csv and self._trainer.accepts_columns(EpochLog().columns()):
            self._trainer.watch_records(self._row_columns)
        if self._recorder:
            self._recorder.options(_without_secrets(self._config).to_yaml())
            self._recorder.info(self._info)

    def begin_epoch(self) -> None:
        """Start an epoch's counts."""
        self._epoch = EpochLog(self._epoch.amp_scale)
        self._epoch_told, self._incidents_before = False, self.incidents.written

    def follow_model(self) -> None:
        """Start the epoch's layers anew: they are others."""
        self._layers = LayerLog(self._groups)

    def step(self, metrics: StepMetrics, verdict: Verdict, outcome: Outcome) -> None:
        """Record a step that was taken or left, with its incident."""
        if metrics.finite:
            self._layers.observe(metrics.layer_norms)
        if metrics.layer_update_ratios is not None:
            self._layers.observe_update(metrics.layer_update_ratios)
        row = _row(metrics, verdict, outcome, self._groups.stages)
        self._epoch.add(row)
        if self._recorder:
            self._recorder.step(row)
        self.incidents.flush(first=_incident(metrics, verdict, outcome))
        if self._step_logger:
            with self._boundary("send a step to the loggers"):
                self._step_logger.add(row)

    @property
    def needs_norm(self) -> bool:
        """Whether no step of the epoch had a finite norm."""
        return not self._epoch.has_norm

    def gathered(self, grad_norm: float, amp_scale: float) -> None:
        """Take in the gradients that wait for a step of a later epoch."""
        self._epoch.add_gathered(grad_norm, amp_scale)

    def end_epoch(self, epoch: int, state: dict[str, Any]) -> None:
        """Write what belongs to an epoch, and say what happened in it.

        Args:
            epoch: Epoch, from 1.
            state: What a run that is resumed after it goes on from.
        """
        if self._recorder:
            self._recorder.flush()
            self._recorder.layers(self._layers.rows(epoch))
            self._recorder.state(epoch, state)
        line = epoch_line(epoch, self._epoch.counts(), self._epoch.largest_norm())
        if line and self._config.report.console:
            adapter.log(line)

    def save_state(self, epoch: int, state: dict[str, Any]) -> None:
        """Write again what a run that is resumed after an epoch goes on from: its validation has changed it."""
        if self._recorder:
            self._recorder.state(epoch, state)

    def tell_epoch(self) -> None:
        """Show an epoch's numbers to the loggers; once, so not after the final validation."""
        if not self._epoch_told and self._config.telemetry.results_csv:
            incidents = self.incidents.written - self._incidents_before
            self._trainer.show_metrics(epoch_metrics(self._epoch.columns(), incidents))
        self._epoch_told = True

    def _row_columns(self) -> dict[str, float]:
        """Return what the epoch's row of ``results.csv`` gets; a row without all of them would break it."""
        columns = dict.fromkeys(EpochLog().columns(), math.nan)
        with self._boundary("add columns to results.csv"):
            columns = self._epoch.columns()
        return columns

    def check_data(self) -> None:
        """Warn of data that would make a loss NaN or a gradient explode."""
        from yolo_gradsafe.data import quick_check

        recorder, trainer = self._recorder, self._trainer.trainer
        arguments = adapter.data_arguments(trainer)
        if recorder is None or arguments is None:
            return
        health = quick_check(**arguments)
        if health is not None and health.warning:
            if not adapter.was_told(trainer):
                adapter.warn(health.warning)
            recorder.files.attempt(recorder.paths.health, lambda: health.save(recorder.paths.health))

    def finish(self, error: str) -> None:
        """Close the records and write the report, once.

        Args:
            error: Why the run ended before its time; empty when it did not.
        """
        if self._finished or not self._recorder:
            return
        self._finished = True
        if self._step_logger:
            with self._boundary("send the last steps to the loggers"):
                self._step_logger.close()
        self.incidents.flush()
        self.incidents.close()
        self._info.finished = _now()
        self._info.error = error
        self._recorder.flush()
        self._recorder.info(self._info)
        self._report(self._recorder)

    def _report(self, recorder: Recorder) -> None:
        """Write the report and show it; say what cannot be written."""
        if lost := recorder.files.lost + recorder.files.waiting:
            adapter.warn(f"{lost} lines could not be written to the records")
        plot = self._config.report.plot and self._trainer.plots
        try:
            self.summary = build(self._trainer.run, plot=plot)
        except (OSError, ReportError) as error:
            adapter.warn(f"the report could not be written: {error}")
            return
        if plot:
            self._trainer.register_plot(recorder.paths.plot)
        if self._config.report.console:
            page = recorder.paths.run / "stability.html"
            where = f"\n  {'page':<15} {page}" if page.is_file() else ""
            adapter.log("stability summary\n" + table(self.summary) + where)


def warn_of_hopeless_data(trainer: Any) -> None:
    """Say what in the data will end a training or teach it nothing, once, before Ultralytics fails on it in its words.

    Args:
        trainer: A trainer that is about to read its data; what it may still download is left to it.
    """
    from yolo_gradsafe.data import CheckError, quick_check
    from yolo_gradsafe.data.kinds import HOPELESS

    arguments = adapter.data_arguments(trainer)
    if arguments is None or adapter.was_told(trainer) is not None:
        return
    try:
        health = quick_check(**arguments)
    except CheckError:
        return
    kinds = {kind.kind for kind in health.kinds} if health is not None else set()
    hopeless = health is not None and bool(kinds & set(HOPELESS)) and "path_missing" not in kinds
    warning = health.warning if health is not None and hopeless else ""
    adapter.note_told(trainer, warning)
    if warning:
        adapter.warn(warning)


def _without_secrets(config: Config) -> Config:
    """Return the options as they are written beside a run: of an address to tell of incidents the host alone."""
    if config.loggers.on_incident is None:
        return config
    loggers = config.loggers.model_copy(update={"on_incident": masked(config.loggers.on_incident)})
    return config.model_copy(update={"loggers": loggers})


def _row(metrics: StepMetrics, verdict: Verdict, outcome: Outcome, stages: list[str]) -> StepRow:
    """Return a step as a row of ``steps.csv``."""
    return StepRow(
        epoch=metrics.epoch,
        step=metrics.step,
        batch=metrics.batch,
        lr=metrics.lr * outcome.lr_factor,
        lr_factor=outcome.lr_factor,
        loss=metrics.loss,
        grad_norm=metrics.grad_norm,
        threshold=outcome.clip.threshold,
        clip_scale=outcome.clip.scale if outcome.taken else 0.0,
        amp_scale=metrics.amp_scale,
        verdict=str(clipped(verdict, outcome.clip.scale)),
        update_ratio=metrics.update_ratio,
        images=outcome.facts.get("images", []) if verdict.bad else [],
        items=metrics.items,
        stages={f"norm/{n}": float(v) for n, v in zip(stages, metrics.stage_norms, strict=True)},
    )


def _incident(metrics: StepMetrics, verdict: Verdict, outcome: Outcome) -> Incident | None:
    """Return a step as an incident; None for a step that needed no remedy."""
    if not verdict.bad and not metrics.norm_overflow:
        return None
    facts = {**seen(metrics, verdict), **outcome.facts}
    return Incident(
        **{
            "kind": Kind(verdict) if verdict.bad else Kind.NORM_OVERFLOW,
            "epoch": metrics.epoch,
            "step": metrics.step,
            "batch": metrics.batch,
            "remedies": outcome.remedies,
            **facts,
        }
    )


def _run_info(trainer: TrainerAdapter) -> RunInfo:
    return RunInfo(
        task=trainer.task,
        model=trainer.model_name,
        optimizer=trainer.optimizer_name,
        amp=trainer.precision,
        batch=trainer.batch_size,
        epochs=trainer.epochs,
        device=trainer.device,
        batches=trainer.batches,
        warmup_batches=trainer.warmup_batches,
        objects=trainer.objects,
        validation_objects=trainer.validation_objects,
        started=_now(),
        environment=adapter.versions(),
    )


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
