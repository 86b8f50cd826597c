"""The judgement on a run: how it ended, whether it is healthy, and both with its learning in one word."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from yolo_gradsafe.judge.learning import NOTHING
from yolo_gradsafe.report.parts import Accuracy, Run, Steps
from yolo_gradsafe.telemetry.schema import Cause, Kind, Learned, Verdict

__all__ = [
    "DIVERGED",
    "HOPELESS",
    "Health",
    "RunVerdict",
    "Status",
    "health",
    "interrupted",
    "ran_away",
    "status",
    "verdict",
]

Status = Literal["finished", "failed", "unfinished"]
Health = Literal["healthy", "survived", "failed"]


class RunVerdict(str, Enum):
    """The run in one word, for a colour and a name; the worst first."""

    FAILED = "failed"
    UNLEARNED = "unlearned"
    SURVIVED = "survived"
    UNCLEAR = "unclear"
    HEALTHY = "healthy"

    @property
    def label(self) -> str:
        """Its name for people."""
        return {RunVerdict.UNLEARNED: "Did not learn", RunVerdict.UNCLEAR: "Too early to tell"}.get(
            self, self.value.capitalize()
        )


DIVERGED = (Kind.DIVERGING, Kind.LR_BACKOFF)
"""Incidents that say that training ran away."""

HOPELESS = 10
"""Skipped steps in a row, at the end of the records, that make a run a failed one: a run may end in one bad batch."""

_ENDED_WITHOUT_ERROR = ("SystemExit: ", "SystemExit: None", "SystemExit: 0")


def ran_away(kind: str, cause: str) -> bool:
    """Return whether an incident says that training ran away; a rate that was limited in time did not let it."""
    return kind in DIVERGED and not (kind == Kind.LR_BACKOFF and cause == Cause.LEARNING_RATE)


def status(run: Run) -> Status:
    """Return how the run ended; one that its user interrupted did not fail."""
    if interrupted(run):
        return "unfinished"
    if run.error:
        return "failed"
    return "finished" if run.finished else "unfinished"


def interrupted(run: Run) -> bool:
    """Return whether its user ended the run, or a scheduler did without an error, as Ray Tune's does."""
    return run.error.startswith("KeyboardInterrupt") or run.error in _ENDED_WITHOUT_ERROR


def health(run: Run, steps: Steps, incidents: int, skipped_at_end: int) -> Health:
    """Judge a run.

    Args:
        run: What was trained, and how it ended.
        steps: The steps, counted.
        incidents: Number of incidents.
        skipped_at_end: Steps in a row that were skipped last.
    """
    ours = steps.total - steps.verdicts[str(Verdict.AMP_OVERFLOW)]
    failed = run.error and not interrupted(run)
    if failed or skipped_at_end >= HOPELESS or 0 < skipped_at_end == ours:
        return "failed"
    return "survived" if incidents or steps.skipped else "healthy"


def verdict(health: str, learned: str, accuracy: Accuracy | None) -> RunVerdict:
    """Put both judgements into one word: a run whose model found nothing is not called healthy.

    Args:
        health: How the gradients fared.
        learned: Whether the model learned.
        accuracy: What validation said; None where there was none.
    """
    if health == RunVerdict.FAILED:
        return RunVerdict.FAILED
    if learned == Learned.NO:
        return RunVerdict.UNLEARNED
    if health == RunVerdict.SURVIVED:
        return RunVerdict.SURVIVED
    found_nothing = accuracy is not None and accuracy.best < NOTHING
    return RunVerdict.UNCLEAR if found_nothing and learned == Learned.UNKNOWN else RunVerdict.HEALTHY
