"""A series as the page draws it: thinned so that its extremes survive, and rounded to what can be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from yolo_gradsafe.report.thin import medians, thin

__all__ = ["DENSE", "Array", "Panel", "Series", "column", "course", "level", "line", "marks"]

DENSE = 600
"""Points from which a noisy series is drawn faintly, with its course on top."""
BUCKETS = 1500
"""Stretches of which a series keeps the smallest and the largest value."""
MARKS = 400
"""Stretches of which marks keep as many: more cannot be told apart."""
COURSE = 200
"""Points of a course."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A curve or a row of marks."""

    name: str
    color: str
    """Name of a colour of the style sheet."""
    x: list[float]
    y: list[float | None]
    kind: str = "line"
    """``line``; ``faint``, the noise behind a course; ``level``, in force step by step; or ``marks``."""
    symbol: str = ""
    dash: str = ""
    edge: bool = False
    """Marks whose height is a share of the panel's, because they have no value of their own."""
    note: str = ""
    """What the legend adds to the name."""


@dataclass(frozen=True)
class Panel:
    """A diagram over the steps."""

    id: str
    title: str
    about: str
    """What is drawn, a sentence."""
    series: list[Series] = field(default_factory=list)
    log: bool = False
    height: int = 220
    base: int = 10
    """Of a logarithmic axis: its ticks are powers of it."""


def line(name: str, color: str, x: Array, y: Array) -> list[Series]:
    """Return a noisy series, what is not finite as a gap; a long one as its course with the noise behind it."""
    if not np.isfinite(y).any():
        return []
    if len(x) < DENSE:
        return [Series(name, color, *_kept(x, y))]
    return [Series(name, color, *_kept(x, y), kind="faint"), Series(name, color, *course(x, y))]


def level(name: str, color: str, x: Array, y: Array, dash: str = "") -> list[Series]:
    """Return a series that was in force step by step, drawn where it changes only."""
    if not np.isfinite(y).any():
        return []
    changes = np.flatnonzero(np.diff(y, prepend=np.nan) != 0)  # the first, and all next to a gap
    if len(changes) < 2 * BUCKETS:
        keep = np.unique(np.concatenate([changes, changes[changes > 0] - 1, [len(y) - 1]]))
        return [Series(name, color, _numbers(x[keep]), _rounded(y[keep]), kind="level", dash=dash)]
    return [Series(name, color, *_kept(x, y), kind="level", dash=dash)]


def marks(name: str, color: str, symbol: str, x: Array, y: Array, height: float | None = None) -> list[Series]:
    """Return marks where ``y`` is finite; at a height that is a share of the panel's where one is given."""
    there = np.isfinite(y)
    if not there.any():
        return []
    keep = thin(y, MARKS)
    keep = keep[np.isfinite(y[keep])]
    values: list[float | None] = _rounded(y[keep]) if height is None else [height] * len(keep)
    note = f"{there.sum():,}"
    return [
        Series(name, color, _numbers(x[keep]), values, kind="marks", symbol=symbol, edge=height is not None, note=note)
    ]


def course(x: Array, y: Array) -> tuple[list[float], list[float | None]]:
    """Return the course of a noisy series: medians of stretches of it."""
    middles, values = medians(y, COURSE)
    return [round(float(v), 1) for v in np.interp(middles, np.arange(len(x)), x)], _rounded(values)


def column(rows: pl.DataFrame, name: str) -> Array:
    """Return a column as numbers, nan where there is none."""
    return np.asarray(rows[name].cast(pl.Float64).fill_null(np.nan), dtype=np.float64)


def _kept(x: Array, y: Array) -> tuple[list[float], list[float | None]]:
    keep = thin(y, BUCKETS)
    return _numbers(x[keep]), _rounded(y[keep])


def _numbers(values: Array) -> list[float]:
    return [int(value) for value in values]


def _rounded(values: Array) -> list[float | None]:
    """Round to five digits; None where a value is not finite."""
    return [float(f"{v:.5g}") if ok else None for v, ok in zip(values.tolist(), np.isfinite(values), strict=True)]
