"""AutoClip: the threshold is a percentile of past norms."""

from __future__ import annotations

from pydantic import Field

from yolo_gradsafe.clipping.adaptive import AdaptiveSection, RememberedNorms
from yolo_gradsafe.clipping.registry import built_in
from yolo_gradsafe.gradients.robust import usual_range

__all__ = ["AutoClipBaseline", "PercentileOptions"]

_DEVIATIONS, _FLOOR = 3.0, 0.1
"""Reach of the usual range on either side, and the smallest deviation of the log norm; as in mode ``auto``."""


@built_in("percentile", "AutoClip", heading="AutoClip, arXiv 2007.14469", position=4, aliases=("autoclip",))
class PercentileOptions(AdaptiveSection):
    """AutoClip."""

    percentile: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="(float) 0 to 100, the threshold is this percentile of the recent norms; 10 is the paper's value "
        "and clips nine steps in ten, 90 to 99 clips only the large ones",
    )
    window: int = Field(
        default=1000,
        ge=2,
        description="(int) >= 2, number of recent norms that are used; the paper uses all, and so does not follow "
        "changes late in training",
    )

    def baseline(self) -> AutoClipBaseline:
        """Return the baseline, with nothing learnt."""
        return AutoClipBaseline(self.percentile, self.window)


class AutoClipBaseline(RememberedNorms):
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

    def usual_range(self) -> tuple[float, float]:
        """Return the median of the log norms and three deviations to either side."""
        return usual_range(self._norms, _DEVIATIONS, _FLOOR)

    def next_threshold(self, norm: float) -> float:
        """Remember the norm, winsorised, and return the percentile."""
        import numpy as np

        low, high = self.usual_range()
        self._norms.append(min(max(norm, low), high))
        return float(np.percentile(self._norms, self.percentile))
