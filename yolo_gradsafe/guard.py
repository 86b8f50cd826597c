"""``GradSafe``: what a user attaches to a training.

The events, in the order in which a trainer runs them:

    on_pretrain_routine_start    say what in the data will end the training, before Ultralytics reads them
    on_pretrain_routine_end      all of the trainer exists: take the step's place
    for each epoch:
        on_train_epoch_start     start the epoch's counts
        for each batch:
            on_train_batch_start     open the batch
            (preprocess, forward, backward, and every few batches: optimizer_step -> measure, judge, act, record)
            on_train_batch_end       keep its loss
        on_train_epoch_end       look at the whole state; validation follows, and the row of results.csv
        on_fit_epoch_end         tell the loggers
    on_train_end                 write the report
    teardown                     give the trainer its methods back
"""

from __future__ import annotations

import pickle
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from yolo_gradsafe import adapter
from yolo_gradsafe.config_errors import ConfigError
from yolo_gradsafe.error_boundary import ErrorBoundary

# What a guard needs is imported when one is made, and what a training needs when one starts: the import stays fast.
if TYPE_CHECKING:
    from yolo_gradsafe.config import Source
    from yolo_gradsafe.report.summary import Summary
    from yolo_gradsafe.session import Session
    from yolo_gradsafe.telemetry.notify import Listener

__all__ = ["GradSafe"]

Target = TypeVar("Target")

_SESSION = "_gradsafe_session"
"""Attribute of a trainer under way: its guard and its session, which go with it."""


class GradSafe(adapter.Guard):
    """Tracks, clips and repairs the gradients of a YOLO training.

    Args:
        source: Options: a YAML path, a preset's name (``"detect"``), a dict, or None for the defaults.
        **overrides: Options that override the source: by section (``clip={"max_norm": 5.0}``), by dotted name, or short
            (``max_norm=5``, ``clip="agc"``, ``clip=False``, ``recovery=False``); ``preset="detect"`` is the source.
            ``on_incident`` is a function that is called with each incident, a dict, in a thread of its own, or an
            address that it is posted to; whatever it does, training neither waits nor ends.

    Raises:
        ConfigError: A wrong option; before any training starts.

    There are two ways to train with it. ``ultralytics.YOLO.train()`` itself takes no ``callbacks=``.

    Examples:
        Attach it to a model of Ultralytics:

        >>> from ultralytics import YOLO
        >>> from yolo_gradsafe import GradSafe
        >>> guard = GradSafe(clip={"max_norm": 5.0})
        >>> model = guard.attach(YOLO("yolo26n.yaml"))
        >>> results = model.train(data="coco8.yaml", epochs=3)
        >>> print(guard.summary.headline)

        Or hand it to ``train()`` of ``yolo_gradsafe.YOLO``, for that training alone:

        >>> from yolo_gradsafe import YOLO
        >>> results = YOLO("yolo26n.yaml").train(data="coco8.yaml", epochs=3, callbacks=guard)
    """

    def __init__(self, source: Source = None, **overrides: Any) -> None:
        from yolo_gradsafe.config import Config

        self._on_incident: Listener | None = None
        if callable(overrides.get("on_incident")):
            self._on_incident = overrides.pop("on_incident")
        self.config = Config.load(source, overrides)
        self.summary: Summary | None = None
        """Summary of the training that ended last; None before, and where another process trained (DDP)."""
        self._guarded: list[weakref.ref[Any]] = []
        """Trainers under way with a session of ours."""
        self._targets: list[weakref.ref[Any]] = []

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """The callbacks by event, in the form of Ultralytics' own integrations."""
        return {event: getattr(self, event) for event in adapter.EVENTS}

    def attach(self, target: Target) -> Target:
        """Register the callbacks on a model or a trainer.

        Attaching again changes nothing. ``model.reset_callbacks()`` removes them like any others.

        Args:
            target: A ``YOLO``, ``RTDETR`` or other Ultralytics model, or a trainer.

        Returns:
            The target.

        Raises:
            TypeError: The target takes no callbacks.
        """
        adapter.register(target, {event: [fn] for event, fn in self.callbacks.items()})
        if not any(known() is target for known in self._targets):
            self._targets.append(weakref.ref(target))
        if adapter.is_set_up(target):
            self.on_pretrain_routine_end(target)
        elif adapter.is_about_to_read(target):  # its first event may be over
            self.on_pretrain_routine_start(target)
        return target

    def trainer(self, base: type[Any]) -> type[Any]:
        """Return a trainer class that brings the guard along, for ``model.train(trainer=...)``.

        It reaches the processes that callbacks do not: the workers of a multi-GPU training up to Ultralytics 8.4.139.

        Args:
            base: The trainer class to guard, such as ``DetectionTrainer``; one of your own must be importable there.

        Raises:
            TypeError: The base is no trainer class.

        Examples:
            >>> from ultralytics import YOLO
            >>> from ultralytics.models.yolo.detect import DetectionTrainer
            >>> guard = GradSafe()
            >>> YOLO("yolo26n.yaml").train(trainer=guard.trainer(DetectionTrainer), data="coco8.yaml", device=[0, 1])
        """
        from yolo_gradsafe.trainers import guarded

        return guarded(base, self, self.config)

    def detach(self, target: Any = None) -> None:
        """Remove the callbacks, from one target or from all; write the report of trainings under way, which go on."""
        for known in self._targets:
            attached = known()
            if attached is not None and target in (None, attached):
                adapter.unregister(attached, {event: [fn] for event, fn in self.callbacks.items()})
        self._targets = [known for known in self._targets if target is not None and known() not in (None, target)]
        for known in self._guarded:
            trainer = known()
            if trainer is not None and (target is None or trainer in (target, getattr(target, "trainer", None))):
                self._end(trainer, "the guard was detached before training ended")

    # Events, in the order above -------------------------------------------------------------------------------------

    def on_pretrain_routine_start(self, trainer: Any) -> None:
        """Runs before the labels are read: say in plain words why nothing can be trained on them."""
        if self.config.forensics.check_data and adapter.is_about_to_read(trainer):
            with suppress(Exception):  # a fault of ours is told when the session checks the data
                from yolo_gradsafe.run_log import warn_of_hopeless_data

                warn_of_hopeless_data(trainer)

    def on_pretrain_routine_end(self, trainer: Any) -> None:
        """Runs when model, optimizer, scaler, EMA and loaders exist: take the place of the trainer's step."""
        from yolo_gradsafe.build import build_session
        from yolo_gradsafe.step import GuardedStep

        if isinstance(vars(trainer).get("optimizer_step"), GuardedStep):
            if self._session(trainer) is None:
                adapter.warn("this training already has a guard; the second one does nothing")
            return
        with ErrorBoundary(_report_start, reraise=(ConfigError,))("guard this training; it runs as plain Ultralytics"):
            try:
                wrapped = adapter.TrainerAdapter(trainer)
            except adapter.UnsupportedTrainer as error:
                adapter.warn(f"{adapter.unknown(str(error))}: this training runs as plain Ultralytics, without a guard")
                return
            session = None
            try:
                with wrapped.ranks.collective():  # a guard on some of the ranks would wait for the others for ever
                    session = build_session(wrapped, self.config, self._on_incident)
                    session.start()
            except Exception:
                (session or wrapped).release()
                raise
            setattr(trainer, _SESSION, (self, session))
            self._guarded.append(weakref.ref(trainer))

    def on_train_epoch_start(self, trainer: Any) -> None:
        """Runs right before an epoch's learning rate is set."""
        self._run(trainer, "start an epoch", lambda session: session.begin_epoch())

    def on_train_batch_start(self, trainer: Any) -> None:
        """Runs right before a batch is preprocessed."""
        self._run(trainer, "start a batch", lambda session: session.begin_batch())

    def on_train_batch_end(self, trainer: Any) -> None:
        """Runs after the backward pass and, where the window is full, the optimizer step."""
        self._run(trainer, "end a batch", lambda session: session.end_batch())

    def on_train_epoch_end(self, trainer: Any) -> None:
        """Runs after an epoch's last batch and before its validation."""
        self._run(trainer, "end an epoch", lambda session: session.end_epoch())

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Runs after an epoch's validation and checkpoint, and after the final validation."""
        self._run(trainer, "tell the loggers of an epoch", lambda session: session.tell_epoch())

    def on_train_end(self, trainer: Any) -> None:
        """Runs after the final validation, on rank 0 only."""
        self._run(trainer, "write the report", lambda session: session.finish())
        self._take_summary(trainer)

    def teardown(self, trainer: Any) -> None:
        """Runs last, also when training failed."""
        error = sys.exc_info()[1]
        self._end(trainer, f"{type(error).__name__}: {error}" if error else "training ended before its last epoch")

    def _end(self, trainer: Any, reason: str) -> None:
        """Write the report of a training whose guard ends before it does, and let the trainer go."""
        self._run(trainer, "write the report", lambda session: session.finish(reason))
        self._take_summary(trainer)
        self._release(trainer)

    def _run(self, trainer: Any, place: str, action: Callable[[Session], None]) -> None:
        """Let the trainer's session, if it has one, do its work; a fault in it stays there."""
        if session := self._session(trainer):
            with session.boundary(place):
                action(session)
            with session.boundary("record what was done"):
                session.log.incidents.flush()

    def _session(self, trainer: Any) -> Session | None:
        """Return the session of ours that lives on a trainer."""
        owner, session = getattr(trainer, _SESSION, (None, None))
        return session if owner is self else None

    def _release(self, trainer: Any) -> None:
        """End the session of ours on a trainer, if there is one, and give the trainer its methods back."""
        if session := self._session(trainer):
            session.release()
            delattr(trainer, _SESSION)
        self._guarded = [known for known in self._guarded if known() not in (None, trainer)]

    def _take_summary(self, trainer: Any) -> None:
        session = self._session(trainer)
        if session and session.log.summary:
            self.summary = session.log.summary

    # For people ------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """Return the guard's rule, and how its training went or goes, in a line."""
        return f"<GradSafe: {self._rule}; {self._now}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the summary of the last training, of the one under way, or the options."""
        from yolo_gradsafe.report.notebook import notice, summary_html

        with suppress(Exception):  # records that are being written may not be readable now
            found = self._so_far() or self.summary
            if found is not None:
                return summary_html(found)
        return notice(f"GradSafe: {self._rule}", self._now)

    @property
    def _rule(self) -> str:
        clip, recovery = self.config.clip, "on" if self.config.recovery.enabled else "off"
        return f"clip {clip.mode}{f' {clip.max_norm:g}' if clip.mode == 'norm' else ''}, recovery {recovery}"

    @property
    def _now(self) -> str:
        session = self._under_way()
        if session is not None:
            return f"training, records in {session.trainer.run}"
        return "no training yet" if self.summary is None else self.summary.headline

    def _under_way(self) -> Session | None:
        """Return the newest session that has not ended."""
        sessions = [self._session(trainer) for known in self._guarded if (trainer := known()) is not None]
        return next((session for session in reversed(sessions) if session is not None), None)

    def _so_far(self) -> Summary | None:
        """Return the summary of the training under way, from its records; None where there is none."""
        session = self._under_way()
        if session is None:
            return None
        from yolo_gradsafe.report.summarize import summarize

        return summarize(session.trainer.run)

    def __getstate__(self) -> dict[str, Any]:
        """Travel to DDP workers and back with the options alone; a function goes along if it can be pickled."""
        told = self._on_incident
        try:
            pickle.dumps(told)
        except Exception:
            adapter.warn("on_incident cannot be pickled, so other processes of this training do not call it")
            told = None
        return {
            "config": self.config, "summary": self.summary, "_guarded": [], "_targets": [], "_on_incident": told,
        }  # fmt: skip


def _report_start(place: str, trace: str) -> None:
    adapter.complain(f"internal error: could not {place}\n{trace}")
