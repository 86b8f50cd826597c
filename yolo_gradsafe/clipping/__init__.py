"""Clipping: the protocol of a clipper, the options, and the built-in rules, one a file in ``rules/``.

Nothing here imports torch before a clipper is built, because the options are checked without it.

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

from yolo_gradsafe.clipping.base import Clip, Clipper, Observation
from yolo_gradsafe.clipping.builder import build
from yolo_gradsafe.clipping.registry import register

__all__ = ["Clip", "Clipper", "Observation", "build", "register"]


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
