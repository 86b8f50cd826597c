"""Ultralytics, seen through what its supported versions have in common.

The only folder that touches the trainer's internals, and the only one that knows versions. The rest of the package
talks to a ``Host`` (a trainer in its run) or a ``Bench`` (a trainer that is driven batch by batch).
"""

from yolo_gradsafe.port.arguments import parse_arguments
from yolo_gradsafe.port.callbacks import (
    EVENTS,
    all_events,
    change_batches,
    is_set_up,
    is_trainer_class,
    register,
    unregister,
    without_integrations,
)
from yolo_gradsafe.port.host import Host
from yolo_gradsafe.port.launch import carries_guard
from yolo_gradsafe.port.log import complain, log, unknown, versions, warn
from yolo_gradsafe.port.loggers import active_loggers, name_epoch_axis
from yolo_gradsafe.port.ranks import Ranks
from yolo_gradsafe.port.shape import UnknownTrainer

__all__ = [
    "EVENTS",
    "Host",
    "Ranks",
    "UnknownTrainer",
    "active_loggers",
    "all_events",
    "carries_guard",
    "change_batches",
    "complain",
    "is_set_up",
    "is_trainer_class",
    "log",
    "name_epoch_axis",
    "parse_arguments",
    "register",
    "unknown",
    "unregister",
    "versions",
    "warn",
    "without_integrations",
]
