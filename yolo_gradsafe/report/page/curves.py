"""The curves of the page: the panels one below the other, over one axis of optimizer steps."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from yolo_gradsafe.report.accuracy import accuracy_by_step
from yolo_gradsafe.report.page.series import Array, Panel, column, level, line, marks
from yolo_gradsafe.report.records import STAGE, loss_items, stage_columns
from yolo_gradsafe.report.summary import Summary

__all__ = ["curves", "epoch_starts"]

COLORS = tuple(f"s{number}" for number in range(1, 10))
"""Names of the style sheet's colours for series, in the order in which they are given out."""
WIDE = 10
"""Largest over smallest value from which on an axis is logarithmic."""
LOWERED = 0.5
"""Factor on the learning rate below which its axis is logarithmic: it would look like 0."""


def curves(rows: pl.DataFrame, summary: Summary) -> list[dict[str, Any]]:
    """Return the panels that a run has something to show in, ready for JSON."""
    if rows.is_empty():
        return []
    panels = [_norm(rows), _loss(rows), _accuracy(rows, summary), _rate(rows), _stages(rows)]
    if summary.amp.enabled:
        panels.insert(4, _amp(rows))
    shown = [asdict(panel) for panel in panels if panel.series]
    skipped = [part.x for part in marks("skipped", "bad", "", column(rows, "step"), _where(rows, "skipped"), 1.0)]
    for panel in shown:
        panel["skipped"] = skipped[0] if skipped else []
    return shown


def epoch_starts(rows: pl.DataFrame) -> list[list[int]]:
    """Return first step and number of every epoch, those that were repeated twice."""
    starts = rows.filter(pl.col("epoch") != pl.col("epoch").shift(fill_value=0)).select("step", "epoch")
    return [list(row) for row in starts.iter_rows()]


def _norm(rows: pl.DataFrame) -> Panel:
    x, norm, threshold = column(rows, "step"), column(rows, "grad_norm"), column(rows, "threshold")
    clipped = np.where(rows["clipped"].to_numpy(), norm, np.nan)
    series = [
        *line("norm", "s1", x, norm),
        *level("threshold", "ink", x, threshold, dash="dash"),
        *marks("clipped", "warn", "circle", x, clipped),
        *marks("AMP overflow", "s5", "triangle-up", x, _where(rows, "overflow"), 0.04),
        *marks("skipped", "bad", "x", x, _where(rows, "skipped"), 0.95),
    ]
    about = "L2 norm of the unscaled gradients, before clipping"
    return Panel("norm", "Gradient norm", about, series, log=_positive(norm), height=300)


def _loss(rows: pl.DataFrame) -> Panel:
    x = column(rows, "step")
    names = ["loss", *loss_items(rows)]
    values = [column(rows, name) for name in names]
    colors = ("ink", *COLORS * (1 + len(names) // len(COLORS)))
    series = [part for name, y, color in zip(names, values, colors, strict=False) for part in line(name, color, x, y)]
    together = np.concatenate(values)
    log = _positive(together) and not (together < 0).any() and _spread(together) > WIDE
    return Panel("loss", "Loss", "of the batch, summed over its images, and its parts", series, log=log, height=260)


def _accuracy(rows: pl.DataFrame, summary: Summary) -> Panel:
    x, accuracy, fitness = accuracy_by_step(rows, summary)
    name = summary.accuracy.metric if summary.accuracy else "accuracy"
    series = [*line(name, "s3", x, accuracy), *line("fitness", "s6", x, fitness)]
    return Panel(
        "accuracy",
        "Accuracy",
        "of the validation after each epoch; fitness is what best.pt is chosen by",
        series,
        height=200,
    )


def _rate(rows: pl.DataFrame) -> Panel:
    x, rate, factor = column(rows, "step"), column(rows, "lr"), column(rows, "lr_factor")
    series = level("learning rate", "s1", x, rate)
    if (factor < 1).any():
        with np.errstate(divide="ignore", invalid="ignore"):
            planned = np.where(factor > 0, rate / factor, np.nan)
        series = [*level("without backoff", "muted", x, planned, dash="dot"), *series]
        lowered = np.where(np.diff(factor, prepend=1.0) < 0, rate, np.nan)
        series += marks("backoff", "bad", "triangle-down", x, lowered)
    log = bool((factor < LOWERED).any()) and _positive(rate)
    return Panel("rate", "Learning rate", "of the first parameter group", series, log=log, height=180)


def _amp(rows: pl.DataFrame) -> Panel:
    x = column(rows, "step")
    series = level("loss scale", "s5", x, column(rows, "amp_scale"))
    series += marks("overflow", "s5", "triangle-up", x, _where(rows, "overflow"), 0.06)
    return Panel("amp", "AMP loss scale", "GradScaler halves it at an overflow", series, log=True, height=180, base=2)


def _stages(rows: pl.DataFrame) -> Panel:
    x = column(rows, "step")
    names = stage_columns(rows)
    colors = COLORS * (1 + len(names) // len(COLORS))
    values = [(name.removeprefix(STAGE), column(rows, name)) for name in names]
    series = [part for (name, y), color in zip(values, colors, strict=False) for part in line(name, color, x, y)]
    log = any(_positive(y) for _, y in values)
    return Panel("stages", "Norm by stage", "how much of the gradient each part of the model has", series, log, 280)


def _where(rows: pl.DataFrame, name: str) -> Array:
    return np.where(rows[name].to_numpy(), 1.0, np.nan)


def _positive(values: Array) -> bool:
    return bool((np.isfinite(values) & (values > 0)).any())


def _spread(values: Array) -> float:
    seen = values[np.isfinite(values) & (values > 0)]
    return float(seen.max() / seen.min()) if len(seen) else 1.0
