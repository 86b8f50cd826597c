"""Norms per image: one setting for any batch size and accumulation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from yolo_gradsafe.clipping.base import Clip, Clipper, Observation
from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["PerImageClipper"]


class PerImageClipper:
    """Let a rule count norms in units of the step's images.

    Ultralytics multiplies its loss by the batch size and sums over micro-batches, so a gradient grows with the images
    of a step, and a threshold that is right at batch 16 is another one at 64 or after an OOM has halved the batch.
    The gradients themselves are not divided; what the rule returns is in units of the real norm.

    Args:
        rule: The rule.
    """

    def __init__(self, rule: Clipper) -> None:
        self.rule = rule

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Clip as the rule does; synchronises as it does."""
        return self.rule.clip_(gradients, replace(observation, unit=float(max(1, observation.images))))

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's state."""
        return self.rule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand the rule its state."""
        self.rule.load_state_dict(state)
