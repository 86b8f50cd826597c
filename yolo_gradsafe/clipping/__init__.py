"""Clipping rules: one clipper a file, one protocol, one registry.

The public names are loaded when they are first used, so that the options can know the names of the rules without
importing torch.

A rule of your own is a class with the three methods of ``Clipper``::

    from yolo_gradsafe.clipping import Clip, register

    @register("half")
    class Half:
        def __init__(self, share: float = 0.5) -> None: ...
        def clip_(self, gradients, observation) -> Clip: ...
        def state_dict(self) -> dict: ...
        def load_state_dict(self, state: dict) -> None: ...

    GradSafe(clip={"mode": "half", "options": {"share": 0.25}})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.base import Clip, Clipper, Observation
    from yolo_gradsafe.clipping.modes import register
    from yolo_gradsafe.clipping.registry import build

__all__ = ["Clip", "Clipper", "Observation", "build", "register"]

_HOMES = {"Clip": "base", "Clipper": "base", "Observation": "base", "build": "registry", "register": "modes"}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name in _HOMES:
        return getattr(import_module(f"yolo_gradsafe.clipping.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'yolo_gradsafe.clipping' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
