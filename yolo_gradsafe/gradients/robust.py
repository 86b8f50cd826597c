"""The usual range of norms, by statistics that outliers do not move."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["MAD_TO_SIGMA", "usual_range"]

MAD_TO_SIGMA = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""
_LARGEST_EXPONENT = 700.0


def usual_range(norms: Sequence[float], deviations: float, floor: float) -> tuple[float, float]:
    """Return the range that norms are in, all but outliers.

    In the log domain, because norms are positive and vary by factors: a fall to a third is as unusual as a rise to the
    threefold, while on a linear scale ``mean - 3 sigma`` is soon below zero and no fall is ever seen.

    Args:
        norms: Positive norms, oldest first; any unit.
        deviations: Robust standard deviations of the log norm on either side of its median.
        floor: Smallest standard deviation of the log norm.

    Returns:
        The lower and the upper end; (0, inf) when there are no norms.
    """
    import numpy as np  # not above: the options of clipping rules are read without it

    if not norms:
        return 0.0, math.inf
    logs = np.log(np.asarray(norms, dtype=np.float64))
    median = float(np.median(logs))
    sigma = max(MAD_TO_SIGMA * float(np.median(np.abs(logs - median))), floor)
    reach = deviations * sigma
    return math.exp(max(median - reach, -_LARGEST_EXPONENT)), math.exp(min(median + reach, _LARGEST_EXPONENT))
