"""What a clipper is: a rule from the norms of a step to a factor for its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["NOT_CLIPPED", "Clip", "Clipper", "Observation"]


@dataclass(frozen=True)
class Observation:
    """What the host knows of a step's gradients when they are clipped: all finite."""

    norm: float
    """Global L2 norm of the unscaled gradients."""
    tensor_norms: Sequence[float]
    """L2 norm of each gradient tensor, in the order of ``Gradients.names``; inf where its squares overflow fp32."""
    images: int
    """Images whose losses were summed into these gradients: batch size times micro-batches, over all ranks."""
    unit: float = 1.0
    """Norm that a rule shall count as 1: its settings and its history are in this unit. ``images`` when per image."""


@dataclass(frozen=True)
class Clip:
    """What a clipper did."""

    threshold: float
    """Global norm above which this step was to be clipped; inf where the rule has none."""
    scale: float
    """Global norm after clipping over that before: 1 where nothing was clipped."""


NOT_CLIPPED = Clip(math.inf, 1.0)
"""What is returned for gradients that a rule must not touch."""


class Clipper(Protocol):
    """Makes gradients that are too large smaller. Sees finite gradients only; knows no trainer.

    An observation that is not finite nevertheless changes nothing: neither the gradients nor what was learnt.
    """

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Clip the gradients in place, and learn from the observation."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the rule has learnt, as plain numbers and lists (JSON)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: The state is another rule's, or damaged.
        """
