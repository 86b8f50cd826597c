"""No clipping: gradients are measured and left alone."""

from __future__ import annotations

import math
from typing import Any

from yolo_gradsafe.clipping.base import Clip, Observation
from yolo_gradsafe.gradients import Gradients

__all__ = ["NoClipper"]


class NoClipper:
    """Leave every gradient as it is."""

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Do nothing."""
        return Clip(math.inf, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is nothing to learn."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""
