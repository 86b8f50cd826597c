"""Ultralytics' log, with the plugin's one prefix; and the versions that a run depends on."""

from __future__ import annotations

import platform

import torch
import ultralytics
from ultralytics.utils import LOGGER, RANK, colorstr

from yolo_gradsafe._version import __version__

__all__ = ["complain", "log", "unknown", "versions", "warn"]


def log(message: str) -> None:
    """Log a line for the user."""
    if RANK in {-1, 0}:
        LOGGER.info(f"{colorstr('GradSafe:')} {message}")


def warn(message: str) -> None:
    """Log a warning for the user."""
    if RANK in {-1, 0}:
        LOGGER.warning(f"{colorstr('GradSafe:')} {message}")


def complain(message: str) -> None:
    """Log a fault of the plugin, on whichever rank it happens; others than the first are let through as errors."""
    if RANK in {-1, 0}:
        warn(message)
    else:
        LOGGER.error(f"{colorstr('GradSafe:')} rank {RANK}: {message}")


def unknown(differences: str) -> str:
    """Return the words for a version that is not made as the known ones."""
    return (
        f"Ultralytics {ultralytics.__version__} differs from the versions that this yolo-gradsafe knows ({differences})"
    )


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "ultralytics": ultralytics.__version__,
        "yolo_gradsafe": __version__,
    }
