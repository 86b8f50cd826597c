"""AutoClip: the threshold is a percentile of past norms."""

from __future__ import annotations

import numpy as np

from yolo_gradsafe.clipping.remembered import RememberedNorms
from yolo_gradsafe.gradients.robust import usual_range

__all__ = ["PercentileBaseline"]

_DEVIATIONS, _FLOOR = 3.0, 0.1
"""Reach of the usual range on either side, and the smallest deviation of the log norm; as in mode ``auto``."""


class PercentileBaseline(RememberedNorms):
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
        super().__init__(window)
        self.percentile = percentile

    def usual(self) -> tuple[float, float]:
        """Return the median of the log norms and three deviations to either side."""
        return usual_range(self._norms, _DEVIATIONS, _FLOOR)

    def judge(self, norm: float) -> float:
        """Remember the norm, winsorised, and return the percentile."""
        low, high = self.usual()
        self._norms.append(min(max(norm, low), high))
        return float(np.percentile(self._norms, self.percentile))
