"""The numbers of an epoch for the loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["epoch_metrics"]


def epoch_metrics(columns: Mapping[str, float], incidents: int) -> dict[str, float]:
    """Return the epoch's columns and ``gradsafe/incidents``.

    Args:
        columns: What the epoch adds to ``results.csv``; the values are the same in both places.
        incidents: Incidents of the epoch, its validation included.

    Returns:
        The finite ones: a report to a tuner or a server is JSON, which has no NaN.
    """
    values = {**columns, "gradsafe/incidents": float(incidents)}
    return {name: value for name, value in values.items() if math.isfinite(value)}
