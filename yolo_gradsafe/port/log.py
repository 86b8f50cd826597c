"""Ultralytics' log, with the plugin's one prefix; and the versions that a run depends on."""

from __future__ import annotations

import platform

import torch
import ultralytics
from ultralytics.utils import LOGGER, RANK, colorstr

__all__ = ["log", "versions", "warn"]


def log(message: str) -> None:
    """Log a line for the user."""
    if RANK in {-1, 0}:
        LOGGER.info(f"{colorstr('GradSafe:')} {message}")


def warn(message: str) -> None:
    """Log a warning for the user."""
    if RANK in {-1, 0}:
        LOGGER.warning(f"{colorstr('GradSafe:')} {message}")


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    from yolo_gradsafe import __version__

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "ultralytics": ultralytics.__version__,
        "yolo_gradsafe": __version__,
    }
