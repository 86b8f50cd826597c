"""What a clipper is, and how one is found by its mode."""

from __future__ import annotations

from typing import Protocol

from yolo_gradsafe.config import ClipOptions
from yolo_gradsafe.gradients import Gradients

__all__ = ["Clipper", "build"]


class Clipper(Protocol):
    """Makes gradients that are too large smaller. Sees finite gradients only; knows no trainer."""

    def threshold(self) -> float:
        """Return the global gradient norm above which the next step is clipped; inf where nothing clips."""

    def clip_(self, gradients: Gradients, norm: float) -> float:
        """Clip in place.

        Args:
            gradients: The step's gradients.
            norm: Their global L2 norm as the host knows it.

        Returns:
            The factor by which the global norm was scaled; 1 when it was left alone.
        """


def build(options: ClipOptions) -> Clipper:
    """Build the clipper that the options name."""
    from yolo_gradsafe.clipping.none import NoClipper
    from yolo_gradsafe.clipping.norm import NormClipper

    return NormClipper(options.max_norm) if options.mode == "norm" else NoClipper()
