"""The last earlier run of the same data and model in the same folder: what a new run is held against first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_gradsafe.report.beside import read_arguments
from yolo_gradsafe.report.parts import Earlier, ReportError, Run
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.telemetry.schema import RunPaths

__all__ = ["earlier_run"]

SAME = ("data", "model", "task")
"""Arguments of Ultralytics that have to agree."""
MOST = 20
"""Runs that are looked at, the newest first."""


def earlier_run(paths: RunPaths, run: Run, arguments: dict[str, Any]) -> Earlier | None:
    """Return that run; None where there is none, where its accuracy is not known, or where it cannot be read."""
    if not run.started or not all(arguments.get(name) for name in SAME[:2]):
        return None
    found: list[tuple[str, Earlier]] = []
    for path in _others(paths):
        other = RunPaths(path)
        if any(read_arguments(other).get(name) != arguments.get(name) for name in SAME):
            continue
        try:
            summary = Summary.load(other.summary)
        except (OSError, ReportError):
            continue
        if summary.accuracy and summary.run.started and summary.run.started < run.started:
            earlier = Earlier(name=path.name, metric=summary.accuracy.metric, best=summary.accuracy.best)
            found.append((summary.run.started, earlier))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _others(paths: RunPaths) -> list[Path]:
    """Return the folders beside a run that hold a summary, the newest first."""
    try:
        here = paths.run.resolve()
        files = [file for file in here.parent.glob("*/stability.json") if file.parent != here]
        files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    except OSError:
        return []
    return [file.parent for file in files[:MOST]]
