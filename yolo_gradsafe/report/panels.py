"""The panels of ``stability.png``, one function each: gradient norm, loss, AMP's loss scale, learning rate.

Red means that GradSafe had to skip a step, and nothing else is red. The other colours are Okabe and Ito's, which
colour-blind readers tell apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter

from yolo_gradsafe.report.look import BLUE, DARK, GREY, ORANGE, PURPLE, RED, plain_log_ticks, spread
from yolo_gradsafe.report.records import loss_items
from yolo_gradsafe.report.thin import medians, thin

__all__ = ["GREY", "SKIPPED", "accuracy", "amp_scale", "gradient_norm", "learning_rate", "loss", "mark_skips"]

SKIPPED = RED
ITEMS = ("#0072b2", "#d98200", "#00896b", "#b8558f", "#7b4f9d", "#4aa3d8", "#8a7a00", "#c4532d", "#7d848b")
"""Colours of the loss items and of the accuracy, those of the page."""

LOWERED = 0.5
"""Factor on the learning rate below which its axis is logarithmic: it would look like 0."""
DENSE = 300
"""Points from which a noisy series is drawn faintly, with its course on top."""
SPARSE = 60
"""Points up to which each one gets a dot."""
FEW = 50
"""Skipped steps up to which each one is drawn in full; more must not cover what is behind them."""

Array = npt.NDArray[np.float64]


def gradient_norm(axes: Axes, rows: pl.DataFrame) -> None:
    """Draw the norm of each step, the threshold in force, and what became of the steps that were over it."""
    steps, norm, threshold = _values(rows, "step"), _values(rows, "grad_norm"), _values(rows, "threshold")
    _log(axes, np.concatenate([norm, threshold]))
    _line(axes, steps, norm, BLUE, "norm")
    if np.isfinite(threshold).any():
        _level(axes, steps, threshold, color=DARK, linestyle="--", linewidth=1.4, zorder=2.5, label="threshold")
    clipped = rows["clipped"].to_numpy()
    if clipped.any():
        x, y = _thinned(steps, np.where(clipped, norm, np.nan))
        axes.plot(x, y, "o", markersize=3.5, markeredgewidth=0, color=ORANGE, label=f"clipped ({clipped.sum()})")
    _marks(axes, rows, "overflow", "AMP overflow", 0.04, marker="^", markersize=7, color=PURPLE)
    size, edge = (11, 1) if rows["skipped"].sum() <= FEW else (7, 0)
    cross = {"marker": "X", "markersize": size, "markeredgecolor": "white", "markeredgewidth": edge}
    _marks(axes, rows, "skipped", "skipped", 0.94, color=SKIPPED, **cross)
    if not np.isfinite(norm).any():
        text = "no finite gradient norm" if len(norm) else "no step was recorded"
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": GREY, "backgroundcolor": "white"}
        axes.text(0.5, 0.25, text, transform=axes.transAxes, **style)
    axes.margins(y=0.14)
    _heading(axes, "gradient norm (L2, before clipping)")


def loss(axes: Axes, rows: pl.DataFrame) -> None:
    """Draw the loss and its items, on a logarithmic axis where they differ much: the loss grows with the batch."""
    names = ["loss", *loss_items(rows)]
    series = [_values(rows, name) for name in names]
    together = np.concatenate(series)
    if not (together < 0).any() and spread(together) > 10:
        _log(axes, together)
    for name, values, color in zip(names, series, (DARK, *ITEMS * len(names)), strict=False):
        _line(axes, _values(rows, "step"), values, color, name)
    _heading(axes, "loss of the batch, and its parts")


def accuracy(axes: Axes, x: Array, values: Array, fitness: Array, name: str) -> None:
    """Draw what validation said after each epoch.

    Args:
        axes: The panel.
        x: Last step of each epoch.
        values: The accuracy there.
        fitness: What Ultralytics chooses the best epoch by.
        name: What the accuracy is called.
    """
    _line(axes, x, values, ITEMS[2], name)
    _line(axes, x, fitness, ITEMS[5], "fitness")
    axes.set_ylim(bottom=0)
    _heading(axes, "accuracy of the validation")


def amp_scale(axes: Axes, rows: pl.DataFrame) -> None:
    """Draw AMP's loss scale, whose steps are factors of two."""
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.7g}"))
    _level(axes, _values(rows, "step"), _values(rows, "amp_scale"), color=PURPLE, linewidth=2)
    _heading(axes, "AMP loss scale")


def learning_rate(axes: Axes, rows: pl.DataFrame) -> None:
    """Draw the learning rate of the first parameter group, and where it was lowered what it would have been."""
    steps, rates, factors = (_values(rows, name) for name in ("step", "lr", "lr_factor"))
    lowered = factors < 1
    planned = np.divide(rates, factors, out=rates.copy(), where=lowered & (factors > 0))
    if lowered.any():
        _level(axes, steps, planned, color=GREY, linestyle=":", linewidth=1.6, label="without backoff")
    _level(axes, steps, rates, color=BLUE, linewidth=2, label="lowered" if lowered.any() else None)
    if (factors < LOWERED).any() and (rates > 0).any():
        _log(axes, np.concatenate([rates, planned]))
    else:
        axes.set_ylim(0, 1.1 * max(planned[np.isfinite(planned)], default=0) or 1)
    _heading(axes, "learning rate (first parameter group)")


def mark_skips(axes: Axes, rows: pl.DataFrame) -> None:
    """Draw a red line where a step was skipped, over the panel's whole height."""
    x = _places(rows, "skipped")
    style: dict[str, Any] = {"color": SKIPPED, "linewidth": 1.2, "alpha": 0.8 if len(x) <= FEW else 0.25, "zorder": 1.5}
    lines = LineCollection([[(place, 0.0), (place, 1.0)] for place in x], transform=axes.get_xaxis_transform(), **style)
    axes.add_collection(lines, autolim=False)  # axes.vlines would stretch the scale to 0 and 1 in older versions


def _marks(axes: Axes, rows: pl.DataFrame, which: str, label: str, height: float, **style: Any) -> None:
    """Mark steps that have no norm to show, at a height that is a share of the panel's."""
    x = _places(rows, which)
    if len(x):
        style |= {"label": f"{label} ({rows[which].sum()})", "clip_on": False, "zorder": 3, "linestyle": ""}
        axes.plot(x, np.full(len(x), height), transform=axes.get_xaxis_transform(), **style)


def _line(axes: Axes, x: Array, y: Array, color: str, label: str) -> None:
    """Draw a noisy series, what is not finite as a gap."""
    if not np.isfinite(y).any():
        return
    if len(x) < DENSE:
        marker = "." if len(x) <= SPARSE else ""
        axes.plot(*_thinned(x, y), marker=marker, markersize=8, color=color, linewidth=1.6, label=label)
        return
    axes.plot(*_thinned(x, y), color=color, linewidth=0.7, alpha=0.4, zorder=1.8)
    middles, course = medians(y)
    axes.plot(np.interp(middles, np.arange(len(x)), x), course, color=color, linewidth=2, zorder=2.2, label=label)


def _level(axes: Axes, x: Array, y: Array, **style: Any) -> None:
    """Draw a series that was in force step by step, half a step before the first and after the last included."""
    if len(x):
        x, y = _thinned(np.array([x[0] - 0.5, *x, x[-1] + 0.5]), np.array([y[0], *y, y[-1]]))
        axes.plot(x, y, drawstyle="steps-mid", **style)


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    keep = thin(y)
    return x[keep], np.where(np.isfinite(y[keep]), y[keep], np.nan)


def _places(rows: pl.DataFrame, which: str) -> Array:
    """Return the steps for which a boolean column is true, no more of them than can be told apart."""
    x, there = _thinned(_values(rows, "step"), np.where(rows[which].to_numpy(), 1.0, np.nan))
    return x[np.isfinite(there)]


def _values(rows: pl.DataFrame, name: str) -> Array:
    return np.asarray(rows[name].cast(pl.Float64).fill_null(np.nan), dtype=np.float64)


def _log(axes: Axes, values: Array) -> None:
    """Make an axis logarithmic, with ticks that read as plain numbers, closer where it spans little."""
    axes.set_yscale("log", nonpositive="mask")
    plain_log_ticks(axes.yaxis, values)


def _heading(axes: Axes, text: str) -> None:
    """Name a panel at its top left, with its legend at the top right."""
    axes.set_title(text, loc="left", fontsize=12)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=8, frameon=False, borderaxespad=0, columnspacing=1.2
        )
