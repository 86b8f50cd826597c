"""Draws ``stability.png``: the panels one above the other over the optimizer steps, the headline on top.

Only matplotlib's objects are used: a program's own figures, backend and style stay as they are.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path, PureWindowsPath

import matplotlib.style
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from yolo_gradsafe.report import panels
from yolo_gradsafe.report.accuracy import accuracy_by_step
from yolo_gradsafe.report.health import RunVerdict
from yolo_gradsafe.report.records import locate, read_steps
from yolo_gradsafe.report.summary import Summary

__all__ = ["draw"]

SIZE = {3: (12, 9), 4: (12, 9), 5: (12, 10.5)}
"""Inches, by the number of panels."""
DPI = 200
"""That of Ultralytics' ``results.png``."""
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
COLORS = {
    RunVerdict.HEALTHY: "#00664b",
    RunVerdict.UNCLEAR: "#4a4f55",
    RunVerdict.SURVIVED: "#a35f00",
    RunVerdict.UNLEARNED: panels.SKIPPED,
    RunVerdict.FAILED: panels.SKIPPED,
}
EPOCHS_BELOW = {3: -0.32, 4: -0.44, 5: -0.52}
"""Where the epochs stand, by the number of panels: a share of the last panel's height."""
MOST_EPOCHS = 20
"""Epochs that are marked at most; of more, every second, fifth, tenth, ... is."""


def draw(run: Path, summary: Summary) -> Path:
    """Draw the picture of a run.

    Args:
        run: The run's folder, its ``stability/`` folder, or a file in either.
        summary: The run's summary.

    Returns:
        The file that was written: ``stability.png`` in the run's folder.

    Raises:
        OSError: A record cannot be read, or the picture cannot be written.
        ReportError: There are no records.
    """
    paths = locate(Path(run))
    rows = read_steps(paths)
    with matplotlib.style.context(["default", STYLE]):
        draws: list[Callable[[Axes, pl.DataFrame], None]] = [panels.gradient_norm, panels.loss]
        x, found, fitness = accuracy_by_step(rows, summary)
        if summary.accuracy and len(x):
            metric = summary.accuracy.metric
            draws.append(lambda axes, rows: panels.accuracy(axes, x, found, fitness, metric))
        draws += [panels.amp_scale] if summary.amp.enabled else []
        draws += [panels.learning_rate] if not summary.amp.enabled or (rows["lr_factor"] < 1).any() else []
        figure = Figure(figsize=SIZE[len(draws)], dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        FigureCanvasAgg(figure)
        stack = figure.subplots(len(draws), 1, sharex=True, height_ratios=(5, 4, 3, 3, 3)[: len(draws)])
        for axes, panel in zip(stack, draws, strict=True):
            panel(axes, rows)
            panels.mark_skips(axes, rows)
            axes.grid(axis="y", color="#ebebeb")
        _epochs(stack, rows)
        _title(figure, summary)
        part = paths.plot.with_name(paths.plot.name + ".part")
        figure.savefig(part, format="png", dpi=DPI)
    os.replace(part, paths.plot)
    return paths.plot


def _title(figure: Figure, summary: Summary) -> None:
    """Write the headline on top, and what was trained at the bottom right."""
    run = summary.run
    batch = f"batch {run.batch}" if run.batch else ""
    facts = (PureWindowsPath(run.model).name, run.task, run.optimizer, run.amp, batch, run.device)
    known = run.model_fields_set  # none where there was no run.json: then fp32 is a guess
    about = textwrap.shorten(", ".join(fact for fact in facts if fact and known), 100, placeholder=" ...")
    # parse_math: an error's text or a file's name may hold dollar signs, and is no formula
    figure.suptitle(
        textwrap.fill(summary.headline, 90),
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
        color=COLORS[summary.verdict],
        parse_math=False,
    )
    figure.text(0.99, 0.012, about, ha="right", va="bottom", fontsize=10, color=panels.GREY, parse_math=False)


def _epochs(stack: Sequence[Axes], rows: pl.DataFrame) -> None:
    """Name the steps and the epochs below the last panel, and mark on all where an epoch begins."""
    lowest = stack[-1]
    lowest.set_xlabel("optimizer step")
    lowest.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if rows.is_empty():
        for axes in stack:
            axes.set_xticks([])
            axes.yaxis.set_visible(False)
        return
    first, last = rows["step"][0], rows["step"][-1]
    margin = max(0.5, 0.01 * (last - first))
    lowest.set_xlim(first - margin, last + margin)
    starts = rows.filter(pl.col("epoch") != pl.col("epoch").shift(fill_value=0)).select("epoch", "step")
    every = next(
        n for power in count() for n in (10**power, 2 * 10**power, 5 * 10**power) if starts.height <= n * MOST_EPOCHS
    )
    marked = starts.filter(pl.col("epoch") % every == 0)
    for axes in stack:
        for step in marked["step"].to_list():
            if step != first:
                axes.axvline(step - 0.5, color="#d9d9d9", linewidth=0.8, zorder=0.5)
    second = lowest.secondary_xaxis(EPOCHS_BELOW[len(stack)])
    second.set_xticks(marked["step"].to_list(), marked["epoch"].to_list())
    second.tick_params(length=0, colors=panels.GREY)
    second.spines["bottom"].set_visible(False)
    second.set_xlabel("epoch", color=panels.GREY)
