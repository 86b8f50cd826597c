"""AdaGC: each tensor is held to its own past."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from yolo_gradsafe.clipping import state as check
from yolo_gradsafe.clipping.adaptive import LevelShift
from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.clipping.registry import RuleSection, Stages, built_in
from yolo_gradsafe.clipping.scaling import scale_, true_norms

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.clip_options import SharedOptions
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["AdaGCClipper", "AdaGCOptions"]


@built_in("adagc", "each tensor by its own past", heading="AdaGC, arXiv 2502.11034", position=6)
class AdaGCOptions(RuleSection):
    """AdaGC."""

    reads: ClassVar[frozenset[str]] = frozenset({"warmup_steps", "patience"})

    factor: float = Field(
        default=1.05,
        gt=1,
        description="(float) > 1, a tensor's gradient is clipped to this many times its own moving norm; the "
        "paper's value",
    )
    beta: float = Field(
        default=0.98,
        gt=0,
        lt=1,
        description="(float) 0 to 1, weight of the past in the moving norm of a tensor, per optimizer step; the "
        "paper's value",
    )
    shift: float = Field(
        default=2.0,
        gt=1,
        description="(float) > 1, a norm this many times above or below the moving norm counts toward clip.patience; "
        "the paper has no such rule and needs over 1000 steps to follow a threefold rise",
    )

    def build(self, shared: SharedOptions, stages: Stages) -> AdaGCClipper:
        """Build the clipper."""
        return AdaGCClipper(shared.max_norm, shared.warmup_steps, shared.patience, self.factor, self.beta, self.shift)


@dataclass
class _Tensor:
    """What is known of one tensor."""

    shift: LevelShift
    seen: int = 0
    usual: float = 0.0
    """The paper's gamma: moving norm after clipping; 0 says that there is none yet."""


class AdaGCClipper:
    """Scale each tensor to ``factor`` times the moving mean of its own clipped norm.

    Wang et al. 2025, "AdaGC: Improving training stability for large language model pretraining", arXiv 2502.11034.
    During the warm-up all are scaled by ``h = min(1, max_norm / norm)`` and ``gamma = min(gamma, h * tensor norm)``;
    after it each by ``h = min(1, factor * gamma / tensor norm)`` and
    ``gamma = beta * gamma + (1 - beta) * h * tensor norm``.

    Deviations: the warm-up's threshold is ``max_norm`` (10.0) where the paper's 1.0 is for language models; a gradient
    of zero teaches nothing, because a gamma of 0 would freeze its tensor for good; a raw norm that stays over ``shift``
    times gamma, or under its ``shift``-th part, becomes gamma after ``patience`` steps (at most ``2 * patience``); the
    paper's gamma grows by 0.1 % a step; a tensor that joins later has its own warm-up.

    Args:
        max_norm: Global norm during the warm-up; default 10.0, stock's.
        warmup_steps: Optimizer steps of the warm-up; default 100, the paper's.
        patience: Outliers on one side that make a new level; default 20.
        factor: The paper's lambda_rel; default 1.05.
        beta: Share of the past in gamma; default 0.98, the paper's.
        shift: Ratio to gamma beyond which a norm is an outlier; default 2.0.
    """

    def __init__(
        self, max_norm: float, warmup_steps: int, patience: int, factor: float, beta: float, shift: float
    ) -> None:
        self.max_norm = max_norm
        self.warmup_steps = warmup_steps
        self.patience = patience
        self.factor = factor
        self.beta = beta
        self.shift = shift
        self._tensors: dict[str, _Tensor] = {}

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Scale in place, each tensor by a factor from the host's norms. Does not synchronise.

        The threshold is the global norm of tensors that are all at their own threshold: max_norm in the warm-up.
        """
        unit = observation.unit
        norms = [norm / unit for norm in true_norms(gradients, observation)]
        total = observation.norm / unit
        if not all(map(math.isfinite, [total, *norms])) or total <= 0:
            return NOT_CLIPPED
        shared = min(1.0, self.max_norm / total)
        limits = [self._limit_for(name, norm, shared) for name, norm in zip(gradients.names, norms, strict=True)]
        factors = [min(1.0, limit / norm) if norm > 0 else 1.0 for limit, norm in zip(limits, norms, strict=True)]
        scale_(gradients.tensors, factors)
        known = [self._tensors[name] for name in gradients.names if name in self._tensors]
        warming_up = all(tensor.seen <= self.warmup_steps for tensor in known)
        threshold = self.max_norm if warming_up else math.hypot(*limits)
        if min(factors, default=1.0) == 1.0:
            return Clip(threshold * unit, 1.0)
        kept = math.hypot(*(factor * norm for factor, norm in zip(factors, norms, strict=True)))
        return Clip(threshold * unit, min(1.0, kept / total))

    def _limit_for(self, name: str, norm: float, shared: float) -> float:
        """Return the norm that a tensor shall have at most, and learn from the one it has."""
        if norm <= 0:
            return 0.0
        tensor = self._tensors.setdefault(name, _Tensor(LevelShift(self.patience)))
        tensor.seen += 1
        if tensor.seen <= self.warmup_steps or tensor.usual <= 0:
            kept = shared * norm
            tensor.usual = min(tensor.usual, kept) if tensor.usual > 0 else kept
            return kept
        if level := tensor.shift.update(norm, tensor.usual / self.shift, tensor.usual * self.shift):
            tensor.usual = statistics.median(level)
        limit = self.factor * tensor.usual
        tensor.usual = self.beta * tensor.usual + (1 - self.beta) * min(norm, limit)
        return limit

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of each tensor, by its name."""
        return {
            "tensors": {
                name: {"seen": tensor.seen, "usual": tensor.usual, "shift": tensor.shift.state_dict()}
                for name, tensor in self._tensors.items()
            }
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: The state is another rule's, or damaged.
        """
        tensors = {}
        for name, entry in dict(check.fields(state, "tensors")["tensors"]).items():
            values = check.fields(entry, "seen", "usual", "shift")
            usual = check.number(values["usual"])
            if usual < 0:
                raise ValueError(f"clipper state: expected a norm from 0 for '{name}', got {usual}")
            tensors[name] = _Tensor(LevelShift(self.patience), check.count(values["seen"]), usual)
            tensors[name].shift.load_state_dict(values["shift"])
        self._tensors = tensors
