"""What a trainer reads its data by, at any time of its life: also before it has read them."""

from __future__ import annotations

from typing import Any

from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import RANK

__all__ = ["data_arguments", "is_about_to_read", "note_told", "was_told"]

_TOLD = "_gradsafe_told_of_data"
"""Attribute of a trainer: what its user has been told of its data."""


def is_about_to_read(target: Any) -> bool:
    """Whether the target is a trainer that begins its training here, but has not read its labels.

    It is no trainer that only starts the processes of a multi-GPU training, and none on a rank above 0.
    """
    ready = isinstance(target, BaseTrainer) and getattr(target, "stopper", None) is None
    return ready and RANK in {-1, 0} and not getattr(target, "ddp", False)


def data_arguments(trainer: Any) -> dict[str, Any] | None:
    """Return the data, ``task``, ``imgsz``, ``batch`` and ``single_cls`` that a training reads its data by.

    Returns:
        None before a trainer has found its data in a way of its own.
    """
    args = trainer.args
    data = getattr(trainer, "data", None)
    if data is None and type(trainer).get_dataset is BaseTrainer.get_dataset:
        data = args.data  # newer versions find the data after the first event of a training
    if not data:
        return None
    sizes = {"imgsz": getattr(args, "imgsz", None), "batch": getattr(trainer, "batch_size", None)}
    sizes = {name: value for name, value in sizes.items() if type(value) is int and value > 0}
    return {"data": data, "task": str(args.task), "single_cls": bool(args.single_cls), **sizes}


def note_told(trainer: Any, warning: str) -> None:
    """Remember what was told of a trainer's data."""
    setattr(trainer, _TOLD, warning)


def was_told(trainer: Any) -> str | None:
    """Return what was told of a trainer's data, empty where all was well; None before they were looked at."""
    told: str | None = getattr(trainer, _TOLD, None)
    return told
