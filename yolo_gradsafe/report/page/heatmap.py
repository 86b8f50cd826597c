"""The heat map of layers over epochs, where vanishing and exploding layers stand out."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

__all__ = ["COLUMNS", "heatmap"]

COLUMNS = 240
"""Columns at most; of a longer run each stands for several epochs."""
MEASURES = {
    "norm_median": ("norm", "median over the epoch"),
    "norm_max": ("largest norm", "largest of the epoch"),
    "update_ratio": ("update / weights", "how much a step changes the weights"),
}
"""Column, its name on the page, and what it is."""


def heatmap(layers: pl.DataFrame) -> dict[str, Any] | None:
    """Return the matrices, logarithms to base 10, ready for JSON; None where no layer was recorded.

    A norm of exactly 0 has no logarithm, is null, and is listed under ``zero``.
    """
    if layers.is_empty():
        return None
    names = layers.unique("layer", maintain_order=True).select("layer", "stage")
    span = math.ceil(layers["epoch"].n_unique() / COLUMNS)
    ranked = layers.with_columns(bin=(pl.col("epoch").rank("dense") - 1) // span)
    binned = ranked.group_by("bin", "layer").agg(
        epoch=pl.col("epoch").min(),
        norm_median=pl.col("norm_median").fill_nan(None).median(),
        norm_max=pl.col("norm_max").fill_nan(None).max(),
        update_ratio=pl.col("update_ratio").fill_nan(None).median(),
    )
    cells = {(row["bin"], row["layer"]): row for row in binned.iter_rows(named=True)}
    bins = sorted({key[0] for key in cells})
    order = names["layer"].to_list()
    epochs = [min(cells[b, layer]["epoch"] for layer in order if (b, layer) in cells) for b in bins]
    measures = []
    for column, (title, about) in MEASURES.items():
        values = [[cells.get((b, layer), {}).get(column) for b in bins] for layer in order]
        if any(value for line in values for value in line):
            z = [[round(math.log10(v), 3) if v and math.isfinite(v) else None for v in line] for line in values]
            zero = [[x, y] for y, line in enumerate(values) for x, v in enumerate(line) if v == 0]
            measures.append({"title": title, "about": about, "z": z, "zero": zero})
    if not measures:
        return None
    return {"layers": order, "stages": names["stage"].to_list(), "epochs": epochs, "span": span, "measures": measures}
