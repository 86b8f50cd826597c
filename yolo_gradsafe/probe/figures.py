"""How numbers are rounded, to be set and to be read."""

from __future__ import annotations

import math

__all__ = ["brief", "rounded"]


def rounded(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.1e}")


def brief(value: float) -> str:
    """Write a number with two significant digits, without an exponent where that is short: ``1100``, ``0.021``."""
    if not math.isfinite(value) or (value != 0 and not 1e-4 <= abs(value) < 1e6):
        return f"{value:.2g}"
    return f"{rounded(value):.0f}" if abs(value) >= 100 else f"{value:.2g}"
