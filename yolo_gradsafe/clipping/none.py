"""No clipping: gradients are measured and left alone."""

from __future__ import annotations

import math

from yolo_gradsafe.gradients import Gradients

__all__ = ["NoClipper"]


class NoClipper:
    """Leave every gradient as it is."""

    def threshold(self) -> float:
        """Return inf: nothing is too large."""
        return math.inf

    def clip_(self, gradients: Gradients, norm: float) -> float:
        """Do nothing."""
        return 1.0
