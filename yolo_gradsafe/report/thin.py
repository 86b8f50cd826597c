"""Makes long series short enough to draw, without losing what matters in them: the extremes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["medians", "thin"]

Array = npt.NDArray[np.float64]


def thin(values: Array, buckets: int = 1200) -> npt.NDArray[np.intp]:
    """Return the positions that a plot needs: of each bucket the smallest and the largest finite value.

    A bucket without a finite value keeps one that is not, so that a gap stays one.

    Args:
        values: A series, in order.
        buckets: Stretches to divide it into; two values of each are kept at most.
    """
    if len(values) <= 2 * buckets:
        return np.arange(len(values))
    table, size = _table(values, buckets)
    finite = np.isfinite(table)
    starts = np.arange(len(table)) * size
    low = starts + np.where(finite, table, np.inf).argmin(axis=1)
    high = starts + np.where(finite, table, -np.inf).argmax(axis=1)
    return np.unique(np.concatenate([low, high]))


def medians(values: Array, buckets: int = 50) -> tuple[Array, Array]:
    """Return the course of a noisy series: the middle position and the median of the finite values of each bucket.

    Args:
        values: A series, in order.
        buckets: Stretches to divide it into.
    """
    table, size = _table(values, buckets)
    starts = np.arange(len(table)) * size
    middles = (starts + np.minimum(starts + size, len(values)) - 1) / 2
    cells = pl.DataFrame({"bucket": np.repeat(starts, size), "value": table.ravel()})
    value = pl.col("value").filter(pl.col("value").is_finite()).median()
    return middles, cells.group_by("bucket", maintain_order=True).agg(value)["value"].to_numpy()


def _table(values: Array, buckets: int) -> tuple[Array, int]:
    """Return the values as one row a bucket, the last one filled up with NaN, and the length of a row."""
    size = -(-len(values) // buckets)
    rows = -(-len(values) // size)
    return np.concatenate([values, np.full(rows * size - len(values), np.nan)]).reshape(rows, size), size
