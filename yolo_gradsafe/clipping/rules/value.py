"""Clip by value: clamp every element."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.clipping.registry import RuleSection, Stages, built_in
from yolo_gradsafe.clipping.scaling import measured_scale
from yolo_gradsafe.clipping.state import Stateless

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.clip_options import SharedOptions
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["ValueClipper", "ValueOptions"]


@built_in(
    "value", "clamp every element", heading="elementwise clamp", position=2, aliases=("clip_value", "clip_grad_value")
)
class ValueOptions(RuleSection):
    """Elementwise clamp."""

    limit: float = Field(
        default=1.0,
        gt=0,
        description="(float) > 0, magnitude to which every gradient element is clamped; 1.0 is Detectron2's value",
    )

    def build(self, shared: SharedOptions, stages: Stages) -> ValueClipper:
        """Build the clipper."""
        return ValueClipper(self.limit)


class ValueClipper(Stateless):
    """Clamp every gradient element to ``[-limit, limit]``, as ``torch.nn.utils.clip_grad_value_`` does.

    The direction of the gradient changes; its signs do not. Mikolov 2012, "Statistical language models based on neural
    networks".

    Args:
        limit: Largest magnitude of an element; default 1.0, Detectron2's.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Clamp in place. Synchronises once, to report the scale, and only when an element may be over the limit."""
        import torch

        limit = self.limit * observation.unit
        if not math.isfinite(observation.norm):
            return NOT_CLIPPED
        # No element is larger than the norm of its tensor; the margin is for fp32 rounding in the norm.
        suspects = [
            tensor
            for tensor, norm in zip(gradients.tensors, observation.tensor_norms, strict=True)
            if not norm < limit * (1 - 1e-5)
        ]
        if not suspects:
            return NOT_CLIPPED
        with torch.no_grad():
            torch._foreach_clamp_min_(suspects, -limit)
            torch._foreach_clamp_max_(suspects, limit)
        return Clip(math.inf, measured_scale(gradients, observation))
