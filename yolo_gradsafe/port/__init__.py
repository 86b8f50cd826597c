"""Ultralytics, seen through what its supported versions have in common.

The only folder that touches the trainer's internals, and the only one that knows versions. The rest of the package
talks to a ``Host`` (a trainer in its run) or a ``Bench`` (a trainer that is driven batch by batch).
"""

from yolo_gradsafe.port.arguments import parse_arguments
from yolo_gradsafe.port.callbacks import EVENTS, all_events, change_batches, is_set_up, register, unregister
from yolo_gradsafe.port.host import Host
from yolo_gradsafe.port.log import log, versions, warn

__all__ = [
    "EVENTS",
    "Host",
    "all_events",
    "change_batches",
    "is_set_up",
    "log",
    "parse_arguments",
    "register",
    "unregister",
    "versions",
    "warn",
]
