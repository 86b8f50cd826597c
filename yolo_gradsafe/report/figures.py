"""What a report says of a run in words: its figures, what was trained, where, with which options."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from yolo_gradsafe.report.advice.facts import SCALE_FREE
from yolo_gradsafe.report.incident_groups import incident_groups
from yolo_gradsafe.report.parts import Run
from yolo_gradsafe.telemetry.sentences import capitalized

if TYPE_CHECKING:
    from yolo_gradsafe.report.summary import Summary

__all__ = ["Figure", "about", "course", "environment", "figures", "flat"]

ACCURACY = (
    "How well the model does on the validation images: 0 is nothing found, 1 is everything found. It is that of the "
    "best epoch, whose weights are in best.pt. Care if it stays near 0, or falls far below its best."
)
STEPS = (
    "How often the optimizer was to change the weights. A skipped step changed nothing; an undone one was taken back. "
    "Care if more than a few were lost."
)
NORM = (
    "The size of the gradient of all weights together: the L2 norm before clipping, without AMP's loss scale. A fall "
    "in the first epochs is usual. Care if it rises for many steps and the losses rise with it."
)
INCIDENTS = (
    "How often something went wrong that needed a remedy; what happens in one step counts once. Each one is told below "
    "with its cause. Care if the same cause comes back."
)
CLIPPED = (
    "The share of applied steps whose gradient norm was over the threshold; their gradients were scaled down to it."
)
USUAL = "That is usual: Ultralytics adds up the loss over the batch, and clips at 10 without saying so."
OFTEN = 0.5
"""Share of clipped steps from which on it is explained what that means."""


class Figure(NamedTuple):
    """A number of the first screen."""

    key: str
    """A word for it that stays the same: ``accuracy``, ``steps``, ``norm``, ``clipped`` or ``incidents``."""
    name: str
    value: str
    detail: str
    """What qualifies the value."""
    meaning: str
    """What the number is, and when to care: sentences."""
    page: str
    """The page of the documentation that says more: the name of its file, as in ``page/manual.py``."""


def figures(summary: Summary) -> list[Figure]:
    """Return the figures, accuracy first where it is known."""
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
    applied = f"{steps.applied:,} applied, {steps.skipped:,} skipped{undone}"
    median = _number(norm.median) if norm else "–"
    share = f"{100 * steps.clipped_share:.3g} %"
    return [
        *_accuracy(summary),
        Figure("steps", "Steps", f"{steps.total:,}", applied, STEPS, "verdicts"),
        Figure("norm", "Gradient norm, median", median, spread, NORM, "read-the-report"),
        Figure("clipped", "Clipped", share, limit, _clipping(summary), "clipped-100-percent"),
        Figure("incidents", "Incidents", f"{len(found):,}", happened, INCIDENTS, "verdicts"),
    ]


def course(summary: Summary) -> str:
    """Say how the accuracy went, in a sentence; empty where it is not known."""
    found = summary.accuracy
    if found is None:
        return ""
    first = next((epoch for epoch in summary.epochs if epoch.accuracy is not None), None)
    name = capitalized(found.metric)
    if first is None or first.accuracy is None or first.epoch == found.best_epoch:
        return f"{name} was {found.best:.3g} in epoch {found.best_epoch}."
    verb = "rose" if found.best > first.accuracy else "went"
    text = f"{name} {verb} from {first.accuracy:.3g} in epoch {first.epoch} to {found.best:.3g} in epoch "
    at_the_end = f", and was {found.last:.3g} at the end" if found.last_epoch != found.best_epoch else ""
    return f"{text}{found.best_epoch}{at_the_end}."


def _accuracy(summary: Summary) -> list[Figure]:
    found = summary.accuracy
    if found is None:
        return []
    at_the_end = f", {found.last:.3g} in the last" if found.last_epoch != found.best_epoch else ", the last"
    where = f"in epoch {found.best_epoch}{at_the_end}" if found.best else f"up to epoch {found.last_epoch}, the last"
    return [Figure("accuracy", capitalized(found.metric), f"{found.best:.3g}", where, ACCURACY, "verdicts")]


def _clipping(summary: Summary) -> str:
    """Say what the share of clipped steps means with this optimizer, and when to care."""
    if not summary.steps.clipped:
        none = "Clipping is off." if summary.threshold is None else "No step was over it: there is nothing to change."
        return f"{CLIPPED} {none}"
    if summary.steps.clipped_share < OFTEN:
        return f"{CLIPPED} A few large steps are limited, the others are left as they are: there is nothing to change."
    return f"{CLIPPED} {USUAL} {_with_optimizer(summary.run.optimizer)}"


def _with_optimizer(name: str) -> str:
    if name in SCALE_FREE:
        return (
            f"{name} divides by the size of the gradients anyway, so this changes little: there is hardly ever a "
            "reason to care."
        )
    if name == "MuSGD":
        return "Clipping does not limit the Muon part of MuSGD. Care if training diverges: then lower lr0."
    if name == "SGD":
        return (
            "With SGD all clipped steps have the same size, which lr0 sets. Care if you raise the threshold: then "
            "lower lr0 by the same factor."
        )
    return "Care if training diverges or hardly learns: then change lr0 first."


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
