"""Draws ``probe.png``: measurements and trial side by side, the answer on top; in the look of ``stability.png``."""

from __future__ import annotations

import math
import os
import textwrap
from pathlib import Path, PureWindowsPath

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from yolo_gradsafe.probe import panels
from yolo_gradsafe.probe.result import ProbeResult

__all__ = ["draw"]

SIZE = (21, 9.5)
"""Inches."""
DPI = 200
STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}


def draw(result: ProbeResult, path: Path) -> Path:
    """Draw the picture of an experiment.

    Args:
        result: What was found.
        path: The PNG file to write.

    Returns:
        The file that was written.

    Raises:
        OSError: The picture cannot be written.
    """
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, 3)
        panels.lr_range(grid[0, 0], result.lr_range, result.advice.lr0)
        panels.movement(grid[0, 1], result.lr_range, result.advice.lr0)
        panels.trial(grid[0, 2], result.trial)
        panels.norms(grid[1, 0], result.norms)
        panels.depth(grid[1, 1], result.init)
        panels.headroom(grid[1, 2], result.headroom)
        _title(figure, result)
        path = Path(path)
        part = path.with_name(path.name + ".part")
        figure.savefig(part, format="png", dpi=DPI)
    os.replace(part, path)
    return path


def _title(figure: Figure, result: ProbeResult) -> None:
    """Write the answer on top, and what it was asked of at the bottom right."""
    setup = result.setup
    too_high = result.advice.lr0 >= (result.lr_range.lr_diverges or math.inf)
    bad = result.init.verdict != "healthy" or result.headroom.fp16 == "unsafe" or not result.norms.held or too_high
    names = [PureWindowsPath(setup.model).name, PureWindowsPath(setup.data).name]
    facts = [*names, setup.optimizer, f"{setup.imgsz} px", f"batch {setup.batch} x {setup.accumulate}", setup.device]
    figure.suptitle(
        textwrap.fill(result.headline, 140),
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
        color=panels.RED if bad else panels.GREEN,
        parse_math=False,
    )
    about = textwrap.shorten(", ".join(facts), 110, placeholder=" ...")
    figure.supxlabel(about, x=0.99, ha="right", fontsize=10, color=panels.GREY, parse_math=False)
