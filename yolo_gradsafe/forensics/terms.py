"""Which loss term went wrong first."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["OUTLIER", "first_bad_term", "outlying_term"]

OUTLIER = 5.0
"""Times its usual value from which a loss term is an outlier."""


def first_bad_term(items: Mapping[str, float]) -> str:
    """Return the first loss item that is not finite, in the order of the loss; empty when all are finite.

    All can be finite although the loss is not: an end-to-end head reports only its one-to-one branch.
    """
    return next((name for name, value in items.items() if not math.isfinite(value)), "")


def outlying_term(items: Mapping[str, float], medians: Mapping[str, float], factor: float = OUTLIER) -> str:
    """Return the loss item that is furthest above its usual value; empty when none is an outlier.

    Args:
        items: Loss items by name.
        medians: What each usually is; an item without one, or with one that is not positive, is passed over.
        factor: Times its usual value from which an item is an outlier.
    """
    ratios = {
        name: value / medians[name]
        for name, value in items.items()
        if math.isfinite(value) and math.isfinite(medians.get(name, math.nan)) and medians[name] > 0
    }
    worst = max(ratios, key=lambda name: ratios[name], default="")
    return worst if worst and ratios[worst] >= factor else ""
