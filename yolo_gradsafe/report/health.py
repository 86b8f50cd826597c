"""The judgement on a run: how it ended, whether it is healthy, and one plain sentence that says so."""

from __future__ import annotations

import textwrap
from typing import Literal

from yolo_gradsafe.report.parts import Run, Steps
from yolo_gradsafe.telemetry.schema import Kind, Verdict

__all__ = ["DIVERGED", "HOPELESS", "Health", "Status", "headline", "health", "status"]

Status = Literal["finished", "failed", "unfinished"]
Health = Literal["healthy", "survived", "failed"]

DIVERGED = (Kind.DIVERGING, Kind.LR_BACKOFF)
"""Incidents that say that training ran away."""

HOPELESS = 10
"""Skipped steps in a row, at the end of the records, that make a run a failed one: a run may end in one bad batch."""


def status(run: Run) -> Status:
    """Return how the run ended; one that its user interrupted did not fail."""
    if _interrupted(run):
        return "unfinished"
    if run.error:
        return "failed"
    return "finished" if run.finished else "unfinished"


def _interrupted(run: Run) -> bool:
    return run.error.startswith("KeyboardInterrupt")


def health(run: Run, steps: Steps, incidents: int, skipped_at_end: int) -> Health:
    """Judge a run.

    Args:
        run: What was trained, and how it ended.
        steps: The steps, counted.
        incidents: Number of incidents.
        skipped_at_end: Steps in a row that were skipped last.
    """
    ours = steps.total - steps.verdicts[str(Verdict.AMP_OVERFLOW)]
    failed = run.error and not _interrupted(run)
    if failed or skipped_at_end >= HOPELESS or 0 < skipped_at_end == ours:
        return "failed"
    return "survived" if incidents or steps.skipped else "healthy"


def headline(
    run: Run, steps: Steps, incidents: int, skipped_at_end: int, epoch: int, diverged: int = 0, lost: int = 0
) -> str:
    """Say in one sentence how the run went.

    Args:
        run: What was trained, and how it ended.
        steps: The steps, counted.
        incidents: Number of incidents.
        skipped_at_end: Steps in a row that were skipped last.
        epoch: Epoch of the last record; 0 where nothing was recorded.
        diverged: Epoch in which training last ran away; 0 where it did not.
        lost: Steps that incidents cost, those included that a rollback undid.
    """
    judgement = health(run, steps, incidents, skipped_at_end)
    if judgement == "failed":
        what = "" if _interrupted(run) else run.error
        what = what or f"{_count(skipped_at_end, 'step')} in a row skipped, up to the last of {steps.total}."
        where = f"at epoch {diverged or epoch}" if epoch else "at the start"
        text = f"Diverged {where}; lower lr0. {what}" if diverged else f"Failed {where}: {what}"
        return textwrap.shorten(text, 160, placeholder=" ...")
    so_far = " before it was interrupted" if _interrupted(run) else " so far" if status(run) == "unfinished" else ""
    if judgement == "survived":
        verb = "was" if steps.skipped < 2 else "were"
        skipped = f"{steps.skipped or 'none'} of {_count(steps.total, 'step')} {verb} skipped"
        survived = f" {_count(incidents, 'incident')}" if incidents else ""
        undone = f", {lost - steps.skipped} undone" if lost > steps.skipped else ""
        return f"Survived{survived}{so_far}: {skipped}{undone}."
    if not steps.total:
        return f"No step was recorded{so_far}."
    clipped = f"{100 * steps.clipped_share:.1f} % clipped"
    return f"Healthy{so_far}: {_count(steps.total, 'step')}, none skipped, {clipped}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
