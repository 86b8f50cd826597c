"""Ultralytics, seen through what its supported versions have in common.

The only folder that touches the trainer's internals, and the only one that knows versions. The rest of the package
talks to a ``TrainerAdapter`` (a trainer in its run) or a ``ProbeTrainer`` (a trainer that is driven batch by batch).
"""

from yolo_gradsafe.adapter.arguments import parse_arguments
from yolo_gradsafe.adapter.callbacks import (
    EVENTS,
    all_events,
    change_batches,
    is_set_up,
    is_trainer_class,
    register,
    unregister,
    without_integrations,
)
from yolo_gradsafe.adapter.compatibility import UnsupportedTrainer
from yolo_gradsafe.adapter.data_arguments import data_arguments, is_about_to_read, note_told, was_told
from yolo_gradsafe.adapter.launch import Guard, attach_for_this_training, carries_guard
from yolo_gradsafe.adapter.log import complain, log, unknown, versions, warn
from yolo_gradsafe.adapter.loggers import active_loggers, name_epoch_axis
from yolo_gradsafe.adapter.ranks import Ranks
from yolo_gradsafe.adapter.trainer_adapter import TrainerAdapter

__all__ = [
    "EVENTS",
    "Guard",
    "Ranks",
    "TrainerAdapter",
    "UnsupportedTrainer",
    "active_loggers",
    "all_events",
    "attach_for_this_training",
    "carries_guard",
    "change_batches",
    "complain",
    "data_arguments",
    "is_about_to_read",
    "is_set_up",
    "is_trainer_class",
    "log",
    "name_epoch_axis",
    "note_told",
    "parse_arguments",
    "register",
    "unknown",
    "unregister",
    "versions",
    "warn",
    "was_told",
    "without_integrations",
]
