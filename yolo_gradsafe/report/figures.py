"""What a report says of a run in words: its figures, what was trained, where, with which options."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

import yaml

from yolo_gradsafe.report.incident_groups import incident_groups
from yolo_gradsafe.report.parts import Run

if TYPE_CHECKING:
    from yolo_gradsafe.report.summary import Summary

__all__ = ["about", "environment", "figures", "flat"]


def figures(summary: Summary) -> list[tuple[str, str, str]]:
    """Return the figures, accuracy first where it is known: name, value, and what qualifies it."""
    steps, norm, amp = summary.steps, summary.grad_norm, summary.amp
    limit = "clipping is off" if summary.threshold is None else f"threshold {_number(summary.threshold)} at the end"
    spread = f"p95 {_number(norm.p95)}, largest {_number(norm.max)}" if norm else "no step had a finite norm"
    found = [group for group in incident_groups(summary.incidents) if group.is_trouble]
    if found:
        first = found[0].main
        happened = f"first in epoch {first.epoch}, batch {first.batch}"
    elif amp.overflows:
        happened = f"{amp.overflows:,} AMP overflow{'s' * (amp.overflows != 1)}, routine"
    else:
        happened = "nothing needed a remedy"
    undone = f", {steps.undone:,} undone" if steps.undone else ""
    return [
        *_accuracy(summary),
        ("Steps", f"{steps.total:,}", f"{steps.applied:,} applied, {steps.skipped:,} skipped{undone}"),
        ("Gradient norm, median", _number(norm.median) if norm else "–", spread),
        ("Clipped", f"{100 * steps.clipped_share:.3g} %", limit),
        ("Incidents", f"{len(found):,}", happened),
    ]


def _accuracy(summary: Summary) -> list[tuple[str, str, str]]:
    found = summary.accuracy
    if found is None:
        return []
    name = f"{found.metric[:1].upper()}{found.metric[1:]}" if not found.metric.startswith("m") else found.metric
    where = f"in epoch {found.best_epoch}"
    at_the_end = f", {found.last:.3g} in the last" if found.last_epoch != found.best_epoch else ", the last"
    return [(name, f"{found.best:.3g}", where + at_the_end)]


def about(run: Run) -> list[str]:
    """Return what was trained, in a few words each."""
    if not run.model_fields_set:  # there was no run.json: then fp32 and the like are guesses
        return []
    facts = (
        PureWindowsPath(run.model).name,
        run.task,
        f"{run.epochs} epochs" if run.epochs else "",
        f"batch {run.batch}" if run.batch else "",
        run.optimizer,
        run.amp,
        run.device,
        _duration(run),
    )
    return [fact for fact in facts if fact]


def environment(run: Run) -> list[tuple[str, str]]:
    """Return the run and the versions of the software, by name."""
    rows = {
        "model": run.model,
        "device": run.device,
        "precision": run.amp,
        "started": run.started.replace("T", " "),
        "finished": run.finished.replace("T", " "),
        "error": run.error,
        **run.environment,
    }
    return [(name, value) for name, value in rows.items() if value]


def flat(options: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested options as dotted names with their values."""
    return list(_flat(options, prefix))


def _flat(options: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _duration(run: Run) -> str:
    """Return how long the run took, empty where it did not say."""
    try:
        seconds = (datetime.fromisoformat(run.finished) - datetime.fromisoformat(run.started)).total_seconds()
    except (ValueError, TypeError):
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
