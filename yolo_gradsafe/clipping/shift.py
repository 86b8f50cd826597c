"""Telling a new level from a spike."""

from __future__ import annotations

from collections import deque
from typing import Any

from yolo_gradsafe.clipping import state as check

__all__ = ["LevelShift"]


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

    def see(self, norm: float, low: float, high: float) -> list[float]:
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
