"""What tells that a training is guarded, also in the processes of a multi-GPU training that Ultralytics starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import wraps
from typing import Any, TypeVar

import ultralytics
from ultralytics.engine import model as models
from ultralytics.engine import trainer as engine

from yolo_gradsafe.adapter.log import warn

__all__ = ["Guard", "attach_for_this_training", "carries_guard", "watch_launch", "watch_tune"]

Target = TypeVar("Target")

_CARRIED_SINCE = (8, 4, 140)
"""From this version on the callbacks travel to the workers; before, they stay behind in silence."""

TUNE = (
    "tune() takes no callbacks: its trainings run in other processes, without the guard. To guard them, start the "
    "script with 'gradsafe run python ...', or call train(callbacks=guard) for each setting."
)


class Guard(ABC):
    """What a guard is to this folder, which knows by it whose callbacks guard a training."""

    @property
    @abstractmethod
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """The callbacks by event: methods of this guard."""

    @abstractmethod
    def attach(self, target: Target) -> Target:
        """Register the callbacks on a model or a trainer, and return it."""


def carries_guard(callbacks: Mapping[str, Iterable[Callable[..., Any]]]) -> bool:
    """Whether a guard is among the callbacks."""
    owners = (getattr(function, "__self__", None) for function in callbacks.get("on_pretrain_routine_end", ()))
    return any(isinstance(owner, Guard) for owner in owners)


def attach_for_this_training(trainer: Any, guard: Callable[[], Guard]) -> None:
    """Attach a guard to a trainer that has none, and to nothing that it shares its callbacks with.

    Args:
        trainer: A trainer.
        guard: Makes the guard; not called where there is one.
    """
    if carries_guard(trainer.callbacks):
        return
    # Up to 8.4.139 they are the model's own, which is to train without the guard the next time.
    trainer.callbacks = copy(trainer.callbacks)
    for event, functions in trainer.callbacks.items():
        trainer.callbacks[event] = list(functions)
    guard().attach(trainer)


def watch_launch() -> None:
    """Make sure that nobody believes workers to be guarded to whom this version of Ultralytics gives no callbacks."""
    start = engine.generate_ddp_command
    if _version() >= _CARRIED_SINCE or getattr(start, "watched", False):
        return

    def generate_ddp_command(trainer: Any) -> Any:
        kind = type(trainer)
        if carries_guard(trainer.callbacks) and not hasattr(kind, "gradsafe_guard"):
            told = (
                f"Ultralytics {ultralytics.__version__} starts the processes of a multi-GPU training without callbacks"
            )
            if started_by_run():
                warn(f"{told}: they are guarded with the options of 'gradsafe run', not with those of your guard.")
            else:
                warn(
                    f"{told}, so THIS TRAINING IS NOT GUARDED. Start your command with 'gradsafe run', "
                    f"pass the guard as a trainer, model.train(trainer=guard.trainer({kind.__name__}), ...), or update "
                    "to 8.4.140 or newer."
                )
        return start(trainer)

    generate_ddp_command.watched = True  # type: ignore[attr-defined]
    engine.generate_ddp_command = generate_ddp_command


def watch_tune() -> None:
    """Make sure that nobody believes the trainings of ``model.tune()`` to be guarded, which take no callbacks."""
    tune = models.Model.tune
    if getattr(tune, "watched", False):
        return

    @wraps(tune)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if carries_guard(self.callbacks) and not started_by_run():
            warn(f"{TUNE} THEY ARE NOT GUARDED.")
        return tune(self, *args, **kwargs)

    watched.watched = True  # type: ignore[attr-defined]
    models.Model.tune = watched


def started_by_run() -> bool:
    """Whether ``gradsafe run`` guards the trainings of this process, and of those that it starts."""
    return hasattr(engine.BaseTrainer._do_train, "by_gradsafe_run")


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in ultralytics.__version__.split(".")[:3] if part.isdigit())
