"""``compare.html``: several runs in one page, their curves laid over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from yolo_gradsafe.report.accuracy import accuracy_by_step
from yolo_gradsafe.report.compare import Comparison, Member
from yolo_gradsafe.report.page.curves import COLORS, LOWERED
from yolo_gradsafe.report.page.series import Panel, Series, column, level, line, marks
from yolo_gradsafe.report.page.template import render
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["write_comparison"]

NOISY = {"norm": ("Gradient norm", "L2 norm of the unscaled gradients, before clipping; × skipped", "grad_norm"),
         "loss": ("Loss", "of the batch, summed over its images", "loss")}  # fmt: skip
LEVELS = {"rate": ("Learning rate", "of the first parameter group", "lr"),
          "threshold": ("Threshold", "norm above which a step is clipped", "threshold"),
          "amp": ("AMP loss scale", "of the GradScaler", "amp_scale")}  # fmt: skip


def write_comparison(path: Path, members: Sequence[Member], comparison: Comparison) -> Path:
    """Write the page.

    Args:
        path: The file to write.
        members: The runs.
        comparison: Their table.

    Raises:
        OSError: The page cannot be written.
    """
    panels = [*_accuracy(members), *_noisy(members), *_levels(members)]
    charts = {"panels": [{**asdict(panel), "skipped": []} for panel in panels], "epochs": [], "heat": None}
    health = [member.summary.health for member in members]
    write_atomically(path, render("compare.html.j2", comparison=comparison, health=health, charts=charts))
    return path


def _accuracy(members: Sequence[Member]) -> list[Panel]:
    """Return the accuracy of all runs that measured the same."""
    metrics = [member.summary.accuracy.metric for member in members if member.summary.accuracy]
    if not metrics:
        return []
    series: list[Series] = []
    for color, member in _colored(members):
        if member.summary.accuracy and member.summary.accuracy.metric == metrics[0]:
            x, accuracy, _ = accuracy_by_step(member.rows, member.summary)
            series += line(member.name, color, x, accuracy)
    about = f"{metrics[0]} of the validation after each epoch"
    return [Panel("accuracy", "Accuracy", about, series, height=260)] if series else []


def _noisy(members: Sequence[Member]) -> list[Panel]:
    panels = []
    for key, (title, about, name) in NOISY.items():
        series: list[Series] = []
        for color, member in _colored(members):
            x, y = column(member.rows, "step"), column(member.rows, name)
            series += line(member.name, color, x, y)
            if key == "norm":
                there = np.where(member.rows["skipped"].to_numpy(), 1.0, np.nan)
                skipped = marks(f"{member.name}, skipped", color, "x", x, there, 0.95)
                series += skipped
        log = any(value and value > 0 for one in series if not one.edge for value in one.y)
        positive = not any(value is not None and value < 0 for one in series for value in one.y)
        panels.append(Panel(key, title, about, series, log=log and positive, height=320 if key == "norm" else 260))
    return [panel for panel in panels if panel.series]


def _levels(members: Sequence[Member]) -> list[Panel]:
    panels = []
    for key, (title, about, name) in LEVELS.items():
        series: list[Series] = []
        for color, member in _colored(members):
            if key != "amp" or member.summary.amp.enabled:
                series += level(member.name, color, column(member.rows, "step"), column(member.rows, name))
        varies = len({value for one in series for value in one.y}) > 1
        lowered = key == "rate" and any((member.rows["lr_factor"] < LOWERED).any() for member in members)
        log = lowered or (key in ("amp", "threshold") and varies)
        if series and (varies or key == "rate"):
            panels.append(Panel(key, title, about, series, log=log, height=180, base=2 if key == "amp" else 10))
    return panels


def _colored(members: Sequence[Member]) -> list[tuple[str, Member]]:
    return [(COLORS[number % len(COLORS)], member) for number, member in enumerate(members)]
