"""A guard by way of the environment: what ``gradsafe run`` sets, and what a training in such a process makes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_gradsafe.config import Config

__all__ = ["OPTIONS", "guard_training", "guarded_environment"]

OPTIONS = "GRADSAFE_OPTIONS"
"""Environment variable: the options of the guard, as JSON; trainings of processes without it are stock."""

_BOOTSTRAP = Path(__file__).parent / "adapter" / "bootstrap"
"""Folder of the ``sitecustomize.py`` that Python runs when it starts."""


def guarded_environment(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which every Ultralytics training is guarded, in child processes as well.

    Args:
        config: The options of their guards.
        environment: The environment to start from.
    """
    path = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place != str(_BOOTSTRAP)]
    options = config.model_dump(mode="json", exclude_unset=True)
    return {
        **environment,
        # An empty PYTHONPATH is none, but an empty entry in one is the working folder.
        "PYTHONPATH": os.pathsep.join([str(_BOOTSTRAP), *(path if any(path) else [])]),
        OPTIONS: json.dumps(options),
    }


def guard_training(trainer: Any) -> None:
    """Give a trainer that is about to train a guard with the options of the environment, unless it has one.

    Args:
        trainer: An Ultralytics trainer.

    Raises:
        ConfigError: The options are not those of this version.
    """
    options = os.environ.get(OPTIONS)
    if not options:
        return
    from yolo_gradsafe import adapter
    from yolo_gradsafe.guard import GradSafe

    adapter.attach_for_this_training(trainer, lambda: GradSafe(json.loads(options)))
