"""AutoClip: the threshold is a percentile of past norms."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from yolo_gradsafe.clipping import state as check
from yolo_gradsafe.clipping.robust import usual_range

__all__ = ["PercentileBaseline"]

_DEVIATIONS, _FLOOR = 3.0, 0.1
"""Reach of the usual range on either side, and the smallest deviation of the log norm; as in mode ``auto``."""


class PercentileBaseline:
    """``threshold = percentile(norms so far, this one included)``.

    Seetharaman et al. 2020, "AutoClip: Adaptive gradient clipping for source separation networks", arXiv 2007.14469.

    Deviations: the paper's history is endless, so that late in training it answers to no change; here it is a window,
    which bounds the time to follow any change by ``window`` steps, and ``patience`` shortens that for a clear one. An
    outlier enters the history as the end of the usual range that it is over: a 10th percentile does not notice, but a
    95th is a spike's own norm when one step in twenty is a spike.

    Args:
        percentile: 0 to 100; default 10, the paper's.
        window: Optimizer steps that are remembered; default 1000.
    """

    def __init__(self, percentile: float, window: int) -> None:
        self.percentile = percentile
        self._norms: deque[float] = deque(maxlen=window)

    def start(self, norms: Sequence[float]) -> None:
        """Begin with these norms."""
        self._norms.clear()
        self._norms.extend(norms)

    def usual(self) -> tuple[float, float]:
        """Return the median of the log norms and three deviations to either side."""
        return usual_range(self._norms, _DEVIATIONS, _FLOOR)

    def judge(self, norm: float) -> float:
        """Remember the norm, winsorised, and return the percentile."""
        low, high = self.usual()
        self._norms.append(min(max(norm, low), high))
        return float(np.percentile(self._norms, self.percentile))

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a history.

        Raises:
            ValueError: It is damaged.
        """
        self.start(check.numbers(check.fields(state, "norms")["norms"], above=0))
