"""yolo-gradsafe: gradient safety for Ultralytics YOLO training.

The public names are loaded when they are first used, so that importing the package (and ``gradsafe --help``) stays
fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_gradsafe._version import __version__
    from yolo_gradsafe.config import Config
    from yolo_gradsafe.config_errors import ConfigError
    from yolo_gradsafe.guard import GradSafe
    from yolo_gradsafe.models import RTDETR, YOLO
    from yolo_gradsafe.report.summary import Summary

__all__ = ["RTDETR", "YOLO", "Config", "ConfigError", "GradSafe", "Summary", "__version__"]

_HOMES = {
    "Config": "config",
    "ConfigError": "config_errors",
    "GradSafe": "guard",
    "RTDETR": "models",
    "Summary": "report.summary",
    "YOLO": "models",
    "__version__": "_version",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name in _HOMES:
        return getattr(import_module(f"yolo_gradsafe.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'yolo_gradsafe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
