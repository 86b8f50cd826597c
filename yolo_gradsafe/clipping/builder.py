"""How a clipper is built from the options."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yolo_gradsafe.clipping.base import Clip, Clipper, Observation
from yolo_gradsafe.clipping.clip_options import ClipOptions, RuleOptions
from yolo_gradsafe.clipping.registry import Stages
from yolo_gradsafe.clipping.stages import StagedClipper, parts_by_parameter

if TYPE_CHECKING:
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["PerImageClipper", "build"]


def build(options: ClipOptions, stages: Stages | None = None) -> Clipper:
    """Build the clipper that the options describe.

    Args:
        options: What to clip, and how.
        stages: Stage of each parameter (``backbone``, ``neck``, ``head.box``), by the parameter's name; None when it
            is not known, and then no stage and no glob matches.

    Raises:
        ConfigError: A stage or glob that matches no parameter, or none that an earlier one has left over.
    """
    stages = stages or {}
    clipper = _build_rule(options, stages)
    if options.stages:
        parts = {pattern: _build_rule(options.rule_for(pattern), stages) for pattern in options.stages}
        clipper = StagedClipper(clipper, parts, parts_by_parameter(options.stages, stages))
    return PerImageClipper(clipper) if options.per_image else clipper


def _build_rule(options: RuleOptions, stages: Stages) -> Clipper:
    if options.rule is not None:
        return options.rule(**options.options)
    return options.section.build(options, stages)


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
