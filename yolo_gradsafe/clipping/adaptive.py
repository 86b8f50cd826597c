"""What the rules with one threshold from past global norms share: warm-up, re-baselining, scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from yolo_gradsafe.clipping import state as check
from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.clipping.scaling import scale_
from yolo_gradsafe.clipping.shift import LevelShift
from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["AdaptiveClipper", "Baseline"]


class Baseline(Protocol):
    """What is usual for a run's global norms. Sees positive finite norms only."""

    def start(self, norms: Sequence[float]) -> None:
        """Forget everything, and begin with these raw norms, oldest first; there may be none."""

    def usual(self) -> tuple[float, float]:
        """Return the range outside of which a norm may be of a new level."""

    def judge(self, norm: float) -> float:
        """Return the norm that this one is to have at most, and learn from it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as plain numbers and lists."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; ValueError when it is damaged."""


class AdaptiveClipper:
    """Scale all gradients to a threshold that a baseline draws from the run's own past.

    Adds to every paper what it lacks: norms that are zero or not finite change nothing (one NaN disables the originals
    for good); during a warm-up the constant rule holds, as in stock; and a level that lasts becomes the baseline, so
    that no rule locks in after a legitimate change. That happens ``patience`` steps after a clear change, and at most
    ``2 * patience`` after one that puts half of the norms out of the usual range.

    Args:
        baseline: The rule.
        max_norm: Threshold during the warm-up; default 10.0, stock's.
        warmup_steps: Optimizer steps of the warm-up; default 100.
        patience: Outliers on one side that make a new level; default 20.
        ceiling: Norm that no threshold exceeds after the warm-up; none by default. ZClip's ``max_grad_norm``, which
            is 1.0 in the paper's language models and would rule a detector, whose norms lie around 10.
    """

    def __init__(
        self, baseline: Baseline, max_norm: float, warmup_steps: int, patience: int, ceiling: float | None = None
    ) -> None:
        self.baseline = baseline
        self.max_norm = max_norm
        self.warmup_steps = warmup_steps
        self.ceiling = math.inf if ceiling is None else ceiling
        self._shift = LevelShift(patience)
        self._warmup: list[float] | None = []

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Scale in place by a factor from the host's norm. Does not synchronise."""
        norm = observation.norm / observation.unit
        if not math.isfinite(norm) or norm <= 0:
            return NOT_CLIPPED
        threshold = self.judge(norm)
        scale = min(1.0, threshold / norm)
        scale_(gradients.tensors, [scale] * len(gradients.tensors))
        return Clip(threshold * observation.unit, scale)

    def judge(self, norm: float) -> float:
        """Return the threshold for a positive finite norm, and learn from it."""
        if self._warmup is not None:
            if len(self._warmup) < self.warmup_steps:
                self._warmup.append(norm)
                return self.max_norm
            self.baseline.start(self._warmup)
            self._warmup = None
        if level := self._shift.see(norm, *self.baseline.usual()):
            self.baseline.start(level[:-1])  # the last one is this norm, and is learnt below
        return min(self.baseline.judge(norm), self.ceiling)

    def state_dict(self) -> dict[str, Any]:
        """Return the warm-up's norms, the count of outliers and the baseline."""
        return {
            "warmup": None if self._warmup is None else list(self._warmup),
            "shift": self._shift.state_dict(),
            "baseline": self.baseline.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: The state is another rule's, or damaged.
        """
        values = check.fields(state, "warmup", "shift", "baseline")
        warmup = values["warmup"]
        self._warmup = None if warmup is None else check.numbers(warmup, above=0)
        self._shift.load_state_dict(values["shift"])
        self.baseline.load_state_dict(values["baseline"])
