"""No clipping: gradients are measured and left alone."""

from __future__ import annotations

from typing import Any

from yolo_gradsafe.clipping import state as check
from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["NoClipper"]


class NoClipper:
    """Leave every gradient as it is."""

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Do nothing."""
        return NOT_CLIPPED

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is nothing to learn."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept nothing: there is nothing to learn."""
        check.fields(state)
