"""No clipping: gradients are measured and left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.clipping.registry import RuleSection, Stages, built_in
from yolo_gradsafe.clipping.state import Stateless

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.clip_options import SharedOptions
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["NoClipper", "NoOptions"]


@built_in("none", "measure only", position=99, aliases=("off",))
class NoOptions(RuleSection):
    """No clipping."""

    def build(self, shared: SharedOptions, stages: Stages) -> NoClipper:
        """Build the clipper."""
        return NoClipper()


class NoClipper(Stateless):
    """Leave every gradient as it is."""

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Do nothing."""
        return NOT_CLIPPED
