"""What a clipper is: a rule from the norms of a step to a factor for its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from yolo_gradsafe.gradients import Gradients

__all__ = ["Clip", "Clipper", "Observation"]


@dataclass(frozen=True)
class Observation:
    """What the host knows of a step's gradients when they are clipped: all finite."""

    norm: float
    """Global L2 norm of the unscaled gradients."""
    tensor_norms: Sequence[float]
    """L2 norm of each gradient tensor, in the order of ``Gradients.names``."""
    images: int
    """Images whose losses were summed into these gradients: batch size times micro-batches, over all ranks."""


@dataclass(frozen=True)
class Clip:
    """What a clipper did."""

    threshold: float
    """Global norm above which this step was to be clipped; inf where the rule has none."""
    scale: float
    """Global norm after clipping over that before: 1 where nothing was clipped."""


class Clipper(Protocol):
    """Makes gradients that are too large smaller. Sees finite gradients only; knows no trainer."""

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Clip the gradients in place, and learn from the observation."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the rule has learnt, as plain numbers and lists (JSON)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
