"""The trainer's events, and how functions get onto them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import callbacks
from ultralytics.utils.callbacks.base import get_default_callbacks

from yolo_gradsafe.adapter.launch import watch_launch, watch_tune
from yolo_gradsafe.adapter.log import unknown, warn

__all__ = [
    "EVENTS",
    "all_events",
    "change_batches",
    "is_set_up",
    "is_trainer_class",
    "register",
    "unregister",
    "without_integrations",
]

EVENTS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_fit_epoch_end",
    "on_train_end",
    "teardown",
)
"""The trainer's events that the guard listens to. Ranks above 0 come to no ``on_train_end`` and, in newer versions,
to no ``on_pretrain_routine_start``."""


def all_events() -> list[str]:
    """Return the events that a callback can be registered for."""
    return list(get_default_callbacks())


def register(
    target: Any, table: Mapping[str, Sequence[Callable[[Any], None]]]
) -> dict[str, list[Callable[[Any], None]]]:
    """Add callbacks to a model or a trainer, in front, so that they run before its loggers; never one twice.

    Args:
        target: A ``Model`` or ``BaseTrainer``.
        table: Callbacks by event.

    Returns:
        Those that were not there before.

    Raises:
        TypeError: The target takes no callbacks.
    """
    watch_launch()
    watch_tune()
    if not (isinstance(getattr(target, "callbacks", None), Mapping) and hasattr(target, "add_callback")):
        raise TypeError(f"expected an Ultralytics model (YOLO, RTDETR, ...) or trainer, got {type(target).__name__}.")
    for event in sorted(set(table) - set(get_default_callbacks())):
        warn(f"{unknown(f'there is no event {event}')}: the guard may not see this training")
    added = {event: [fn for fn in functions if fn not in target.callbacks[event]] for event, functions in table.items()}
    for event, functions in added.items():
        target.callbacks[event][:0] = functions
    return added


def unregister(target: Any, table: Mapping[str, Sequence[Callable[[Any], None]]]) -> None:
    """Remove callbacks from a model or a trainer; those that are not there are ignored."""
    for event, functions in table.items():
        target.callbacks[event] = [fn for fn in target.callbacks[event] if fn not in functions]


def is_set_up(target: Any) -> bool:
    """Whether the target is a trainer that is past ``on_pretrain_routine_end``."""
    return isinstance(target, BaseTrainer) and getattr(target, "stopper", None) is not None


def is_trainer_class(target: Any) -> bool:
    """Whether the target is a class of trainers."""
    return isinstance(target, type) and issubclass(target, BaseTrainer)


def change_batches(trainer: Any, change: Callable[[int, dict[str, Any]], None]) -> None:
    """Let ``change`` alter every batch that is trained on, after it was preprocessed.

    Args:
        trainer: A trainer.
        change: Called with the epoch, from 1, and the batch, whose tensors it may change in place.
    """
    preprocess = trainer.preprocess_batch

    def preprocess_batch(batch: Any) -> Any:
        batch = preprocess(batch)
        change(int(trainer.epoch) + 1, batch)
        return batch

    trainer.preprocess_batch = preprocess_batch


@contextmanager
def without_integrations() -> Iterator[None]:
    """Keep trainers made meanwhile from starting runs in the user's experiment trackers."""
    add = callbacks.add_integration_callbacks
    callbacks.add_integration_callbacks = lambda _: None
    try:
        yield
    finally:
        callbacks.add_integration_callbacks = add
