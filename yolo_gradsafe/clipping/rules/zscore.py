"""ZClip: the threshold follows the moving mean and variance of the norm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from yolo_gradsafe.clipping import state as check
from yolo_gradsafe.clipping.adaptive import AdaptiveSection
from yolo_gradsafe.clipping.registry import built_in
from yolo_gradsafe.gradients.robust import MAD_TO_SIGMA

__all__ = ["ZClipBaseline", "ZScoreOptions"]


@built_in("zscore", "ZClip", heading="ZClip, arXiv 2504.02507", position=5, aliases=("zclip",))
class ZScoreOptions(AdaptiveSection):
    """ZClip."""

    z: float = Field(
        default=2.5,
        gt=0,
        description="(float) > 0, a norm this many standard deviations above the mean is an outlier; the paper's value",
    )
    alpha: float = Field(
        default=0.97,
        gt=0,
        lt=1,
        description="(float) 0 to 1, weight of the past in the moving mean and variance, per optimizer step; the "
        "paper's value",
    )
    sigma_floor: float = Field(
        default=0.05,
        ge=0,
        description="(float) >= 0, smallest standard deviation, as a share of the mean; without it (0, as in the "
        "paper) the variance of the clipped norms shrinks until every step is an outlier",
    )

    def baseline(self) -> ZClipBaseline:
        """Return the baseline, with nothing learnt."""
        return ZClipBaseline(self.z, self.alpha, self.sigma_floor)


class ZClipBaseline:
    """Norms whose z-score is over ``z`` are scaled to ``mean + z * sigma * z / score``: the higher, the harder.

    Kumar et al. 2025, "ZClip: Adaptive spike mitigation for LLM pre-training", arXiv 2504.02507: reciprocal clipping,
    the paper's default. Mean and variance move with ``x = min(norm, clipped norm)``:
    ``mean = alpha * mean + (1 - alpha) * x``, then ``variance = alpha * variance + (1 - alpha) * (x - mean)**2``.

    Deviations: a floor under sigma in place of the paper's 1e-6, because a variance that is fed with clipped values
    shrinks until every step is an outlier; the warm-up's norms are winsorised at z robust deviations from their median,
    because one spike there sets a variance that lets everything pass; ``max_grad_norm`` is ``clip.ceiling``, off. With
    a floor of 0 and no outlier in the warm-up the thresholds are the paper's.

    Args:
        z: Standard deviations above the mean from which a norm is an outlier; default 2.5, the paper's.
        alpha: Share of the past in the moving values; default 0.97, the paper's.
        sigma_floor: Smallest sigma as a share of the mean; default 0.05.
    """

    def __init__(self, z: float, alpha: float, sigma_floor: float) -> None:
        self.z = z
        self.alpha = alpha
        self.sigma_floor = sigma_floor
        self._mean = 0.0
        self._variance = 0.0

    def restart(self, norms: Sequence[float]) -> None:
        """Begin with the mean and variance of these norms, spikes winsorised."""
        self._mean = self._variance = 0.0
        if not norms:
            return
        median = statistics.median(norms)
        sigma = MAD_TO_SIGMA * statistics.median(abs(norm - median) for norm in norms)
        reach = self.z * max(sigma, self.sigma_floor * median)
        usual = [min(max(norm, median - reach), median + reach) for norm in norms] if reach > 0 else list(norms)
        self._mean = statistics.fmean(usual)
        self._variance = statistics.fmean((norm - self._mean) ** 2 for norm in usual)

    def usual_range(self) -> tuple[float, float]:
        """Return the mean times and over the same factor, the upper end being ``mean + z * sigma``.

        Symmetric in the log domain: ``mean - z * sigma`` is soon below zero, and no fall would ever be seen.
        """
        if self._mean <= 0:
            return 0.0, math.inf
        factor = 1 + self.z * self._sigma / self._mean
        return self._mean / factor, self._mean * factor

    def next_threshold(self, norm: float) -> float:
        """Return ``mean + z * sigma``, or for an outlier the norm that it is scaled to; learn the clipped norm."""
        if self._mean <= 0:
            self._mean = norm
            return math.inf
        sigma = self._sigma
        threshold = self._mean + self.z * sigma
        if norm > threshold:
            threshold = self._mean + self.z * sigma * self.z * sigma / (norm - self._mean)
        learnt = min(norm, threshold)
        self._mean = self.alpha * self._mean + (1 - self.alpha) * learnt
        self._variance = self.alpha * self._variance + (1 - self.alpha) * (learnt - self._mean) ** 2
        return threshold

    def state_dict(self) -> dict[str, Any]:
        """Return mean and variance; a mean of 0 says that there is none yet."""
        return {"mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a mean and a variance.

        Raises:
            ValueError: They are damaged.
        """
        values = check.fields(state, "mean", "variance")
        mean, variance = check.number(values["mean"]), check.number(values["variance"])
        if mean < 0 or variance < 0:
            raise ValueError(f"clipper state: expected a mean and a variance from 0, got {mean} and {variance}")
        self._mean, self._variance = mean, variance

    @property
    def _sigma(self) -> float:
        return max(math.sqrt(self._variance), self.sigma_floor * self._mean)
