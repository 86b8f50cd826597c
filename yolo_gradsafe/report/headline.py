"""The run in one plain sentence, the most important first: did it fail, did the model learn, what did it take."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from yolo_gradsafe.report.health import Health, RunVerdict, interrupted, status, verdict
from yolo_gradsafe.report.parts import Accuracy, Reason, Run, Spike, Steps
from yolo_gradsafe.telemetry.schema import Learned, Shortfall

__all__ = ["Story", "headline"]

KEPT = 0.5
"""Share of the best accuracy below which the last one is named as well."""
_OUTCOMES = {Shortfall.NEVER_ROSE, Shortfall.COLLAPSED}
"""Reasons that the accuracy in the headline says already."""


@dataclass(frozen=True)
class Story:
    """What a headline is made of."""

    run: Run
    steps: Steps
    health: Health
    learned: Learned
    reasons: list[Reason]
    accuracy: Accuracy | None
    spike: Spike | None
    incidents: int
    skipped_at_end: int
    epoch: int
    """Epoch of the last record; 0 where nothing was recorded."""
    diverged: int
    """Epoch in which training last ran away; 0 where it did not."""


def headline(story: Story) -> str:
    """Say in one sentence how the run went; in a second one, what was extreme."""
    tell = {
        RunVerdict.FAILED: _failed,
        RunVerdict.UNLEARNED: _unlearned,
        RunVerdict.SURVIVED: _survived,
        RunVerdict.UNCLEAR: _unclear,
        RunVerdict.HEALTHY: _healthy,
    }[verdict(story.health, story.learned, story.accuracy)]
    return tell(story) + _spike(story.spike)


def _failed(story: Story) -> str:
    what = "" if interrupted(story.run) else story.run.error
    skipped = f"{_count(story.skipped_at_end, 'step')} in a row skipped, up to the last of {story.steps.total}."
    what = what or skipped
    where = f"at epoch {story.diverged or story.epoch}" if story.epoch else "at the start"
    text = f"Diverged {where}; lower lr0. {what}" if story.diverged else f"Failed {where}: {what}"
    text = textwrap.shorten(text, 160, placeholder=" ...")
    known = _accuracy(story.accuracy)
    return f"{text.rstrip('.')}; {known}." if known else text


def _unlearned(story: Story) -> str:
    collapsed = any(reason.reason == Shortfall.COLLAPSED for reason in story.reasons)
    so_far = " so far" if status(story.run) == "unfinished" else ""
    verb = f"Learned{so_far}, and lost it" if collapsed else f"Did not learn{so_far}"
    found = story.accuracy
    known = []
    if found:
        known = [f"{found.metric} {_short(found.last)} after {_count(found.last_epoch, 'epoch')}"]
        if _short(found.best) != _short(found.last):
            known[0] += f", {_short(found.best)} in epoch {found.best_epoch}" + " (best.pt)" * collapsed
    causes = [reason.message for reason in story.reasons if reason.reason not in _OUTCOMES][:1]
    text = f"{verb}: {'; '.join(known + causes)}."
    return f"{text} {_events(story)}" if story.incidents or story.steps.skipped else text


def _survived(story: Story) -> str:
    survived = f" {_count(story.incidents, 'incident')}" if story.incidents else ""
    known = _accuracy(story.accuracy)
    return f"Survived{survived}{_so_far(story.run)}: {_skipped(story.steps)}{f'; {known}' if known else ''}."


def _unclear(story: Story) -> str:
    return f"Too early to tell{_so_far(story.run)}: {_quiet(story.steps)}; {_accuracy(story.accuracy)}."


def _healthy(story: Story) -> str:
    so_far, known = _so_far(story.run), _accuracy(story.accuracy)
    if not story.steps.total:
        return f"No step was recorded{so_far}."
    return f"Healthy{so_far}: {_quiet(story.steps)}{f'; {known}' if known else ''}."


def _so_far(run: Run) -> str:
    if interrupted(run):
        return " before it was interrupted"
    return " so far" if status(run) == "unfinished" else ""


def _quiet(steps: Steps) -> str:
    return f"{_count(steps.total, 'step')}, none skipped, {100 * steps.clipped_share:.1f} % clipped"


def _events(story: Story) -> str:
    what = _count(story.incidents, "incident") if story.incidents else "Bad batches"
    return f"{what}: {_skipped(story.steps)}."


def _skipped(steps: Steps) -> str:
    verb = "was" if steps.skipped < 2 else "were"
    undone = f", {steps.undone} undone" if steps.undone else ""
    return f"{steps.skipped or 'none'} of {_count(steps.total, 'step')} {verb} skipped{undone}"


def _accuracy(found: Accuracy | None) -> str:
    """Return the accuracy of the best epoch, whose weights are kept, and what it was at the end where that is less."""
    if found is None:
        return ""
    text = f"{found.metric} {_short(found.best)}"
    if found.last < KEPT * found.best:
        return f"{text} in epoch {found.best_epoch}, {_short(found.last)} at the end"
    return text


def _spike(spike: Spike | None) -> str:
    if spike is None:
        return ""
    what, where = spike.what, f"at step {spike.step:,} (epoch {spike.epoch})"
    return f" The {what} jumped to {spike.value:.1e} {where}, {spike.times:.0e} times its usual value."


def _short(value: float) -> str:
    """Write an accuracy with three digits, and 0 where it is nothing."""
    return f"{value:.3g}" if value >= 0.0005 else "0"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
