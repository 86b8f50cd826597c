"""Clip by the global norm: what ``torch.nn.utils.clip_grad_norm_`` does, and stock Ultralytics with 10.0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.clipping.registry import RuleSection, Stages, built_in
from yolo_gradsafe.clipping.state import Stateless

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.clip_options import SharedOptions
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["NormClipper", "NormOptions"]


@built_in(
    "norm",
    "scale all gradients when their global L2 norm is over max_norm",
    position=1,
    aliases=("clip_norm", "max_norm", "clip_grad_norm"),
)
class NormOptions(RuleSection):
    """Global norm: ``clip.max_norm`` is its option."""

    def build(self, shared: SharedOptions, stages: Stages) -> NormClipper:
        """Build the clipper."""
        return NormClipper(shared.max_norm)


class NormClipper(Stateless):
    """Scale all gradients by ``max_norm / norm`` when their global L2 norm is larger.

    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", arXiv 1211.5063.

    Args:
        max_norm: Largest global L2 norm of the unscaled gradients that is left alone; default 10.0, stock's.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Scale in place; costs no pass over the gradients when the norm is below. Does not synchronise."""
        from yolo_gradsafe.gradients.norms import clip_by_norm_

        if not math.isfinite(observation.norm):
            return NOT_CLIPPED
        threshold = self.max_norm * observation.unit
        return Clip(threshold, clip_by_norm_(gradients, observation.norm, threshold))
