"""A running training on a terminal, from its records: how far, how healthy, what happened last."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from yolo_gradsafe.report.console import shown
from yolo_gradsafe.report.incident_groups import incident_groups
from yolo_gradsafe.report.page.cards import LABELS, label
from yolo_gradsafe.report.records import locate, read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.report.thin import medians
from yolo_gradsafe.telemetry.schema import RunPaths

__all__ = ["View", "look", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 56
"""Characters of a sparkline."""
LAST = 4
"""Incidents that are shown."""
SILENT = 600
"""Seconds without a record after which a training may have been killed."""
COLORS = {
    "healthy": "green",
    "unclear": "default",
    "survived": "yellow",
    "unlearned": "red",
    "failed": "red",
    "bad": "red",
    "warn": "yellow",
    "good": "green",
}


@dataclass(frozen=True)
class View:
    """The state of a run as it was read."""

    paths: RunPaths
    summary: Summary
    rows: pl.DataFrame

    @property
    def over(self) -> bool:
        """Whether the run has said that it ended."""
        return bool(self.summary.run.finished)

    def __rich__(self) -> RenderableType:
        """Return what a terminal shows."""
        return Group(self._head(), self._progress(), Text(), self._curves(), self._counts(), *self._incidents())

    def _head(self) -> Text:
        head = Text(f"{shown(self.paths.run.absolute().name)}  ", style="bold")
        return head.append(shown(self.summary.headline), style=COLORS[self.summary.verdict.value])

    def _progress(self) -> RenderableType:
        run, epochs = self.summary.run, self.summary.epochs
        now = epochs[-1].epoch if epochs else 0
        line = Table.grid(padding=(0, 2))
        words = [f"epoch {now}" + (f" of {run.epochs}" if run.epochs else ""), f"step {self.summary.steps.total:,}"]
        words += [_left(run.started, now, run.epochs)] if not self.over else []
        words.append(self.summary.status if self.over else _silence(self.paths))
        bar = [ProgressBar(total=run.epochs, completed=now, width=24)] if run.epochs else []
        line.add_row(*bar, *(Text(word, style="dim") for word in words if word))
        return line

    def _curves(self) -> Table:
        table = Table.grid(padding=(0, 2))
        names = {"gradient norm": "grad_norm", "loss": "loss", "learning rate": "lr"}
        if self.summary.amp.enabled:
            names["AMP scale"] = "amp_scale"
        for name, column in names.items():
            values = np.asarray(self.rows[column].fill_null(math.nan), dtype=np.float64)
            last = values[np.isfinite(values)][-1:]
            now = f"{last[0]:.4g}" if len(last) else "–"
            table.add_row(Text(name, style="dim"), Text(sparkline(values, log=column != "lr"), style="cyan"), Text(now))
        return table

    def _counts(self) -> Text:
        steps, amp = self.summary.steps, self.summary.amp
        text = Text(f"{steps.applied:,} applied, {steps.clipped:,} clipped ({100 * steps.clipped_share:.1f} %), ")
        text.append(f"{steps.skipped:,} skipped", style="red" if steps.skipped else "")
        return text.append(f", {amp.overflows:,} AMP overflows" if amp.overflows else "")

    def _incidents(self) -> Iterator[Text]:
        found = incident_groups(self.summary.incidents)
        if not found:
            return
        yield Text()
        if len(found) > LAST:
            yield Text(f"{len(found) - LAST} incidents before these", style="dim")
        for group in found[-LAST:]:
            main = group.main
            tone = COLORS[LABELS.get(main.kind, ("", "warn"))[1]]
            line = Text.assemble((f"{label(main.kind)}  ", tone), (f"epoch {main.epoch}, batch {main.batch}  ", "dim"))
            line.append(shown(main.culprit or main.message))
            line.append(f"; {shown(main.action)}", style="dim")
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line
        for advice in self.summary.advice[:1]:
            yield Text()
            setting = advice.arguments or advice.options or advice.command
            yield Text.assemble(("Advice: ", "bold"), shown(advice.title), (f"  {shown(setting)}", "cyan"))


def look(paths: RunPaths) -> View:
    """Read a run as it stands.

    Raises:
        OSError: A record cannot be read.
        ReportError: There are no records, or those of a newer version.
    """
    paths = locate(paths.run)
    return View(paths, summarize(paths.run), read_steps(paths))


def sparkline(values: npt.NDArray[np.float64], width: int = WIDTH, log: bool = True) -> str:
    """Draw a series with a character for each stretch of it: the median of its finite values; a gap where none is."""
    if not len(values):
        return ""
    _, course = medians(values, min(width, len(values)))
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            course = np.log(course)
    finite = np.isfinite(course)
    if not finite.any():
        return " " * len(course)
    low, high = course[finite].min(), course[finite].max()
    scaled = np.where(finite, (course - low) / (high - low if high > low else 1) * (len(BARS) - 1), 0).round()
    return "".join(BARS[int(level)] if there else " " for level, there in zip(scaled, finite, strict=True))


def _left(started: str, now: int, epochs: int) -> str:
    """Estimate how long the rest takes, from the epochs so far; empty where that cannot be known."""
    try:
        passed = (datetime.now().astimezone() - datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return ""
    if now < 2 or epochs <= now or passed <= 0:
        return ""
    minutes = passed / (now - 0.5) * (epochs - now + 0.5) / 60
    return f"about {minutes / 60:.1f} h left" if minutes >= 90 else f"about {max(1, round(minutes))} min left"


def _silence(paths: RunPaths) -> str:
    try:
        seconds = time.time() - paths.steps.stat().st_mtime
    except OSError:
        return "no step yet"
    age = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"last record {age} ago" + (": killed?" if seconds > SILENT else "")
