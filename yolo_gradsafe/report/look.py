"""The look that all our pictures share: colours, and logarithmic axes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["BLUE", "DARK", "GREEN", "GREY", "ORANGE", "PURPLE", "RED", "plain_log_ticks", "spread"]

RED, GREEN = "#e6001a", "#00664b"
DARK, GREY, BLUE, ORANGE, PURPLE = "#222222", "#8c8c8c", "#0072b2", "#e69f00", "#7b4f9d"

_CLOSE = 200
"""Spread of the values below which a decade gets three ticks."""


def spread(values: npt.NDArray[np.float64]) -> float:
    """Return the largest over the smallest positive finite value, 1 where there is none."""
    seen = values[np.isfinite(values) & (values > 0)]
    return float(seen.max() / seen.min()) if len(seen) else 1.0


def plain_log_ticks(axis: Axis, values: npt.NDArray[np.float64]) -> None:
    """Let a logarithmic axis have ticks that read as plain numbers, closer where its values span little."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread(values) < _CLOSE else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
