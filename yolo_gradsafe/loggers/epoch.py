"""The few numbers of an epoch for what reads only ``trainer.metrics``: Ray Tune and Ultralytics' Platform."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["epoch_metrics"]

_FROM_COLUMNS = ("gradsafe/grad_norm", "gradsafe/skipped")


def epoch_metrics(columns: Mapping[str, float], incidents: int) -> dict[str, float]:
    """Return ``gradsafe/grad_norm``, ``gradsafe/skipped`` and ``gradsafe/incidents`` of an epoch.

    Args:
        columns: What the epoch adds to ``results.csv``; the values are the same in both places.
        incidents: Incidents of the epoch, its validation included.

    Returns:
        The finite ones: a report to a tuner or a server is JSON, which has no NaN.
    """
    values = {**{name: columns[name] for name in _FROM_COLUMNS}, "gradsafe/incidents": float(incidents)}
    return {name: value for name, value in values.items() if math.isfinite(value)}
