"""What the rules share that learn from a run's past norms: warm-up, history, telling a new level from a spike."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from yolo_gradsafe.clipping import state as check
from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.clipping.registry import RuleSection, Stages
from yolo_gradsafe.clipping.scaling import scale_

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.clip_options import SharedOptions
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["AdaptiveClipper", "AdaptiveSection", "Baseline", "LevelShift", "RememberedNorms"]


class Baseline(Protocol):
    """What is usual for a run's global norms. Sees positive finite norms only."""

    def restart(self, norms: Sequence[float]) -> None:
        """Forget everything, and begin with these raw norms, oldest first; there may be none."""

    def usual_range(self) -> tuple[float, float]:
        """Return the range outside of which a norm may be of a new level."""

    def next_threshold(self, norm: float) -> float:
        """Return the norm that this one is to have at most, and learn from it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as plain numbers and lists."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; ValueError when it is damaged."""


class AdaptiveSection(RuleSection):
    """The options of a rule that draws one threshold from past global norms."""

    reads: ClassVar[frozenset[str]] = frozenset({"warmup_steps", "patience", "ceiling"})

    @abstractmethod
    def baseline(self) -> Baseline:
        """Return the baseline that these options describe, with nothing learnt."""

    def build(self, shared: SharedOptions, stages: Stages) -> AdaptiveClipper:
        """Build the clipper around the baseline."""
        return AdaptiveClipper(self.baseline(), shared.max_norm, shared.warmup_steps, shared.patience, shared.ceiling)


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
        threshold = self._next_threshold(norm)
        scale = min(1.0, threshold / norm)
        scale_(gradients.tensors, [scale] * len(gradients.tensors))
        return Clip(threshold * observation.unit, scale)

    def _next_threshold(self, norm: float) -> float:
        """Return the threshold for a positive finite norm, and learn from it."""
        if self._warmup is not None:
            if len(self._warmup) < self.warmup_steps:
                self._warmup.append(norm)
                return self.max_norm
            self.baseline.restart(self._warmup)
            self._warmup = None
        if level := self._shift.update(norm, *self.baseline.usual_range()):
            self.baseline.restart(level[:-1])  # the last one is this norm, and is learnt below
        return min(self.baseline.next_threshold(norm), self.ceiling)

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


class RememberedNorms:
    """What the last optimizer steps had for norms.

    Args:
        window: Optimizer steps that are remembered.
    """

    def __init__(self, window: int) -> None:
        self._norms: deque[float] = deque(maxlen=window)

    def restart(self, norms: Sequence[float]) -> None:
        """Begin with these norms."""
        self._norms.clear()
        self._norms.extend(norms)

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a history.

        Raises:
            ValueError: It is damaged.
        """
        self.restart(check.numbers(check.fields(state, "norms")["norms"], above=0))


class LevelShift:
    """Counts norms outside the usual range, on one side, within a span of steps.

    A spike is over in a few steps. A level (end of warm-up, close_mosaic, another accumulation, a batch halved after an
    OOM) stays: ``patience`` outliers in a row are one, and so are as many within ``2 * patience`` steps, because a
    noisy level dips into the old range. Rarer outliers are never taken for a level.

    Args:
        patience: Outliers on one side that make a level.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._step = 0
        self._side = 0
        self._outliers: deque[tuple[int, float]] = deque()

    def update(self, norm: float, low: float, high: float) -> list[float]:
        """Count a norm, and return the outliers that make a new level, oldest first, or nothing."""
        self._step += 1
        side = (norm > high) - (norm < low)
        if side == 0:
            return []
        if side != self._side:
            self._outliers.clear()
        self._side = side
        self._outliers.append((self._step, norm))
        while self._outliers[0][0] <= self._step - 2 * self.patience:
            self._outliers.popleft()
        if len(self._outliers) < self.patience:
            return []
        level = [value for _, value in self._outliers]
        self._outliers.clear()
        return level

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted."""
        return {"step": self._step, "side": self._side, "outliers": [list(pair) for pair in self._outliers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: It is damaged.
        """
        values = check.fields(state, "step", "side", "outliers")
        if values["side"] not in (-1, 0, 1):
            raise ValueError(f"clipper state: expected a side of -1, 0 or 1, got {values['side']!r}")
        outliers = [check.numbers(pair, above=0) for pair in values["outliers"]]
        if any(len(pair) != 2 for pair in outliers):
            raise ValueError("clipper state: expected outliers as [step, norm]")
        self._step, self._side = check.count(values["step"]), int(values["side"])
        self._outliers = deque((int(step), norm) for step, norm in outliers)
