"""``postmortem.html``: what can be known of a training without a guard, with its curves by epoch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from yolo_gradsafe.report.page.curves import COLORS, WIDE
from yolo_gradsafe.report.page.series import Array, Panel, Series, line
from yolo_gradsafe.report.page.template import render
from yolo_gradsafe.report.postmortem import Facts, Postmortem
from yolo_gradsafe.report.postmortem.findings import span
from yolo_gradsafe.report.postmortem.text import READ, accuracy
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["write_postmortem"]

BEGINNINGS = {
    "accuracy": ("Accuracy", "of the validation, by epoch", ("metrics/",)),
    "train": ("Training losses", "means of each epoch", ("train/",)),
    "val": ("Validation losses", "of each epoch", ("val/",)),
    "rate": ("Learning rate", "of each parameter group, at the end of the epoch", ("lr/",)),
}
"""Title of a panel, what it shows, and what its columns' names start with."""


def write_postmortem(path: Path, facts: Facts, found: Postmortem) -> Path:
    """Write the page.

    Args:
        path: The file to write.
        facts: What is on record.
        found: What it was found to say.

    Raises:
        OSError: The page cannot be written.
    """
    epochs = np.asarray(facts.epochs, dtype=np.float64)
    bad = sorted({epoch for finding in found.findings if finding.severity == "error" for epoch in finding.epochs})
    panels = [panel for key in BEGINNINGS if (panel := _panel(key, facts, epochs)).series]
    key = "; red: epochs with an error" if bad else ""
    shown = [{**asdict(panel), "about": panel.about + key, "skipped": bad} for panel in panels]
    text = render(
        "postmortem.html.j2",
        found=found,
        name=facts.run.absolute().name,
        accuracy=accuracy(found),
        read=READ,
        span=span,
        charts={"panels": shown, "epochs": [], "heat": None, "unit": "epoch"},
    )
    write_atomically(path, text)
    return path


def _panel(key: str, facts: Facts, epochs: Array) -> Panel:
    title, about, starts = BEGINNINGS[key]
    names = [name for start in starts for name in facts.named(start)]
    series: list[Series] = []
    positive: list[float] = []
    for number, name in enumerate(names):
        values = facts.column(name)
        series += line(name.partition("/")[2], COLORS[number % len(COLORS)], epochs, values)
        positive += values[np.isfinite(values) & (values > 0)].tolist()
    wide = key in ("train", "val") and bool(positive) and max(positive) > WIDE * min(positive)
    return Panel(key, title, about, series, log=wide, height=300 if key == "accuracy" else 240)
