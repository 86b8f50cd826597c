"""The robust rule: median and MAD of recent log norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from yolo_gradsafe.clipping.adaptive import AdaptiveSection, RememberedNorms
from yolo_gradsafe.clipping.registry import built_in
from yolo_gradsafe.gradients.robust import usual_range

__all__ = ["AutoBaseline", "AutoOptions"]


@built_in("auto", "median and MAD of recent log norms", heading="median and MAD of log norms", position=7)
class AutoOptions(AdaptiveSection):
    """The robust rule: median and MAD of log norms."""

    deviations: float = Field(
        default=3.0,
        gt=0,
        description="(float) > 0, the threshold is this many robust standard deviations above the median of the log "
        "norm; with 3, a run with lognormal norms is clipped in 1 of 1000 steps",
    )
    window: int = Field(
        default=200,
        ge=2,
        description="(int) >= 2, number of recent norms that are used; outliers have no effect if they are less "
        "than half",
    )
    sigma_floor: float = Field(
        default=0.1,
        gt=0,
        description="(float) > 0, smallest standard deviation of the log norm; 0.1 (about 10 %) prevents clipping "
        "where the norms hardly vary",
    )

    def baseline(self) -> AutoBaseline:
        """Return the baseline, with nothing learnt."""
        return AutoBaseline(self.deviations, self.window, self.sigma_floor)


class AutoBaseline(RememberedNorms):
    """``threshold = exp(median(log norms) + deviations * max(1.4826 * MAD, sigma_floor))``.

    Our own rule, in the line of icefall's clip at twice the median. Median and MAD are the most robust location and
    scale there are: half of the window may be spikes before the threshold leaves the range of the usual norms. Logs,
    because gradient norms are near lognormal. Raw norms enter the history, so the spread cannot collapse on values
    that the rule itself has clipped, as it does in ZClip; and any change is followed within ``window / 2`` steps.

    Args:
        deviations: Robust standard deviations above the median; default 3.0.
        window: Optimizer steps that are remembered; default 200.
        sigma_floor: Smallest standard deviation of the log norm; default 0.1.
    """

    def __init__(self, deviations: float, window: int, sigma_floor: float) -> None:
        super().__init__(window)
        self.deviations = deviations
        self.sigma_floor = sigma_floor
        self._usual = (0.0, math.inf)

    def restart(self, norms: Sequence[float]) -> None:
        """Begin with these norms."""
        super().restart(norms)
        self._measure()

    def usual_range(self) -> tuple[float, float]:
        """Return the range whose upper end is the threshold."""
        return self._usual

    def next_threshold(self, norm: float) -> float:
        """Return the threshold from the norms before this one, and remember it."""
        threshold = self._usual[1]
        self._norms.append(norm)
        self._measure()
        return threshold

    def _measure(self) -> None:
        self._usual = usual_range(self._norms, self.deviations, self.sigma_floor)
