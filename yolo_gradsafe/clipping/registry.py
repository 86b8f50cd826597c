"""How a clipper is found by its mode."""

from __future__ import annotations

from yolo_gradsafe.clipping.base import Clipper
from yolo_gradsafe.clipping.none import NoClipper
from yolo_gradsafe.clipping.norm import NormClipper
from yolo_gradsafe.config import ClipOptions

__all__ = ["build"]


def build(options: ClipOptions) -> Clipper:
    """Build the clipper that the options name."""
    return NormClipper(options.max_norm) if options.mode == "norm" else NoClipper()
