"""The one place where the parts of a session are made and tied together; nothing is read, written or sent."""

from __future__ import annotations

from yolo_gradsafe import adapter, clipping
from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.config import Config
from yolo_gradsafe.drivers import ObserveOnly, OwnStep, StepDriver, StockStep
from yolo_gradsafe.error_boundary import ErrorBoundary
from yolo_gradsafe.forensics.investigator import FaultInvestigator
from yolo_gradsafe.gradients.layer_groups import LayerGroups
from yolo_gradsafe.gradients.update_ratio import UpdateRatioSampler
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.judge.history import History
from yolo_gradsafe.measurement import Measurement
from yolo_gradsafe.rank_sync import RankSync
from yolo_gradsafe.recovery.isolation import Isolation
from yolo_gradsafe.recovery.loss_scale import LossScaleKeeper
from yolo_gradsafe.recovery.manager import RecoveryManager, TrainingStopped
from yolo_gradsafe.recovery.rollback import RollbackManager
from yolo_gradsafe.recovery.savepoint import Savepoint
from yolo_gradsafe.run_log import RunLog
from yolo_gradsafe.session import Session
from yolo_gradsafe.state_registry import StateRegistry
from yolo_gradsafe.step import GuardedStep
from yolo_gradsafe.telemetry import Recorder
from yolo_gradsafe.telemetry.incident_log import IncidentLog, Progress
from yolo_gradsafe.telemetry.notify import Listener, Notifier, Webhook

__all__ = ["build_session"]


def build_session(trainer: TrainerAdapter, config: Config, on_incident: Listener | None = None) -> Session:
    """Make a session; ``Session.start`` begins it.

    Args:
        trainer: The trainer.
        config: The resolved options.
        on_incident: A function of the user's that is told of incidents.
    """
    if trainer.incompatibilities:
        config = _observing(config)
    telemetry, options = config.telemetry, config.recovery
    registry, window, progress = StateRegistry(), AccumulationWindow(), Progress()
    savepoint = Savepoint(trainer)
    parameters = trainer.named_parameters()
    groups = LayerGroups([name for name, _ in parameters], trainer.layout)
    recorder = None
    if trainer.is_main:
        recorder = Recorder(trainer.run, telemetry.flush_steps, telemetry.flush_seconds, adapter.warn)
    incidents = IncidentLog(progress, recorder, adapter.warn, _notifier(trainer, config, on_incident))

    def report_fault(place: str, trace: str) -> None:
        adapter.complain(f"internal error, training continues: could not {place}\n{trace}")
        incidents.internal_error(place, trace)

    boundary = ErrorBoundary(report_fault, reraise=(TrainingStopped,))
    history = History(groups.stages, follow=options.enabled)
    clipper = clipping.build(config.clip, trainer.stages())
    scale = LossScaleKeeper(options.scale_floor, options.scale_hysteresis)
    investigator = FaultInvestigator(trainer, config.forensics, window, incidents)
    isolation = Isolation(trainer, window, savepoint, options)
    rollback = RollbackManager(trainer, options, savepoint, registry, incidents)
    recovery = RecoveryManager(trainer, options, history, investigator, isolation, rollback, incidents)
    registry.register("clipper", clipper, follows_weights=True)
    registry.register("recovery", recovery)
    registry.register("isolation", isolation)
    registry.register("history", history)
    registry.register("forensics", investigator)
    registry.register("loss_scale", scale)
    registry.register("rollback", rollback)
    driver: StepDriver = StockStep(trainer, clipper, scale) if trainer.step_is_stock else OwnStep(trainer, scale)
    if not options.enabled:
        driver = ObserveOnly(driver, trainer)
    updates = UpdateRatioSampler(parameters, groups, telemetry.update_ratio_steps)
    measurement = Measurement(trainer, window, groups, savepoint, history.batchnorm, updates)
    sync = RankSync(trainer, boundary, rollback, registry, incidents)
    log = RunLog(trainer, config, recorder, incidents, groups, boundary)
    step = GuardedStep(driver, measurement, history, recovery, sync, progress, log.step)
    return Session(trainer, config, step, log, registry, recorder)


def _notifier(trainer: TrainerAdapter, config: Config, on_incident: Listener | None) -> Notifier | None:
    """Return what tells of incidents; None on ranks that write no files, and where there is nobody to tell."""
    address, seconds = config.loggers.on_incident, config.loggers.on_incident_seconds
    listeners = [on_incident] if on_incident else []
    listeners += [Webhook(address, seconds)] if address else []
    if not listeners or not trainer.is_main:
        return None
    return Notifier(listeners, str(trainer.run), seconds, adapter.warn)


def _observing(config: Config) -> Config:
    """Return options under which nothing is done to a training."""
    recovery = config.recovery.model_copy(update={"enabled": False})
    forensics = config.forensics.model_copy(update={"diagnoses": 0, "quarantine": 0})
    return config.model_copy(update={"recovery": recovery, "forensics": forensics})
