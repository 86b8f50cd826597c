"""The run in one plain sentence, the most important first: did it fail, did the model learn, what did it take."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

from yolo_gradsafe.report.health import Health, RunVerdict, interrupted, status, verdict
from yolo_gradsafe.report.incident_groups import IncidentGroup
from yolo_gradsafe.report.parts import Accuracy, LoweredRate, Reason, Run, Spike, Steps
from yolo_gradsafe.telemetry.schema import Cause, Kind, Learned, Shortfall
from yolo_gradsafe.telemetry.sentences import capitalized

__all__ = ["Story", "headline"]

KEPT = 0.9
"""Share of the best accuracy below which the last one is named as well."""
_OUTCOMES = {Shortfall.NEVER_ROSE, Shortfall.COLLAPSED, Shortfall.FELL, Shortfall.STEPS_SKIPPED}
"""Reasons that the headline says already."""


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
    validation_spike: Spike | None
    troubles: Sequence[IncidentGroup]
    lowered: LoweredRate | None
    skipped_at_end: int
    epoch: int
    """Epoch of the last record; 0 where nothing was recorded."""
    diverged: int
    """Epoch in which training last ran away; 0 where it did not."""


def headline(story: Story) -> str:
    """Say in one sentence how the run went; in others, what was extreme."""
    tell = {
        RunVerdict.FAILED: _failed,
        RunVerdict.UNLEARNED: _unlearned,
        RunVerdict.SURVIVED: _survived,
        RunVerdict.UNCLEAR: _unclear,
        RunVerdict.HEALTHY: _healthy,
    }[verdict(story.health, story.learned, story.accuracy)]
    return tell(story) + _spike(story.spike) + _spike(story.validation_spike)


def _failed(story: Story) -> str:
    what = "" if interrupted(story.run) else story.run.error
    skipped = f"{_count(story.skipped_at_end, 'step')} in a row skipped, up to the last of {story.steps.total}"
    skipped += _why(story)
    what = what or skipped
    where = f"at epoch {story.diverged or story.epoch}" if story.epoch else "at the start"
    text = f"Diverged {where}; lower lr0. {what}" if story.diverged else f"Failed {where}: {what}"
    text = textwrap.shorten(text, 160, placeholder=" ...")
    known = _accuracy(story.accuracy)
    if not known:
        return text
    return f"{text if text.endswith('...') else text.rstrip('.')}; {known}."


def _why(story: Story) -> str:
    """Name what made the last steps fail, where that is known."""
    cause = story.troubles[-1].cause if story.troubles else ""
    alike = [group for group in story.troubles if group.cause == cause]
    return f", because of {_WHAT[cause](alike)}." if cause in _WHAT else "."


def _unlearned(story: Story) -> str:
    lost = {reason.reason for reason in story.reasons} & {Shortfall.COLLAPSED, Shortfall.FELL}
    so_far = " so far" if status(story.run) == "unfinished" else ""
    verb = f"Learned{so_far}, and lost it" if Shortfall.COLLAPSED in lost else f"Did not learn{so_far}"
    found = story.accuracy
    known = []
    if found:
        known = [f"{found.metric} {_short(found.last)} after {_count(found.last_epoch, 'epoch')}"]
        if _short(found.best) != _short(found.last):
            known[0] += f", {_short(found.best)} in epoch {found.best_epoch}" + " (best.pt)" * bool(lost)
    said = _OUTCOMES | ({Shortfall.RATE_TOO_HIGH} if story.lowered else set())  # what happened names it as well
    causes = [reason.message for reason in story.reasons if reason.reason not in said][:1]
    text = f"{verb}: {'; '.join(known + causes)}."
    return f"{text} {_events(story)}" if story.troubles or story.steps.skipped else text


def _events(story: Story) -> str:
    what = _count(len(story.troubles), "incident") if story.troubles else "Bad batches"
    text = _happened(story) or f"{what}: {_counted(story)}"
    return f"{capitalized(text)}."


def _survived(story: Story) -> str:
    known = _accuracy(story.accuracy)
    happened = _happened(story)
    survived = f" {_count(len(story.troubles), 'incident')}" if story.troubles and not happened else ""
    text = f"Survived{survived}{_so_far(story.run)}: {happened or _counted(story)}"
    return f"{text}; {known}." if known else f"{text}."


# What happened --------------------------------------------------------------------------------------------------------


def _happened(story: Story) -> str:
    """Say what went wrong and what it cost, where there is one cause alone; empty where there is none, or several."""
    groups = story.troubles
    causes = {group.cause for group in groups}
    if story.lowered and all(group.lowered_rate for group in groups):
        return _rate(story.lowered) + _also_lost(story.steps)
    if groups and all(group.main.kind == Kind.BATCHNORM_LAG for group in groups):
        since = f"they follow faster since step {groups[0].main.step:,}"
        return f"batch-norm statistics lagged behind the weights; {since}"
    if len(causes) == 1 and (cause := causes.pop()) in _WHAT:
        return f"{_WHAT[cause](groups)} cost {_lost(story.steps)}"
    return ""


def _counted(story: Story) -> str:
    """Count what was skipped; several things went wrong."""
    text = _skipped(story.steps)
    return f"{text}; {_rate(story.lowered)}" if story.lowered else text


def _rate(found: LoweredRate) -> str:
    rate = f"{'lr0=' if found.is_lr0 else 'a learning rate of '}{found.before:.2g}"
    how = f"lowered to {found.after:.2g} at step {found.step:,}"
    how += f", the last of {found.times} times" if found.times > 1 else ""
    if found.moved_too_far:
        return f"{rate} was too high for this model: {how}"
    return f"training ran away with {rate}: {how}"


def _also_lost(steps: Steps) -> str:
    return f"; {_lost(steps)} were lost" if steps.skipped + steps.undone else ""


def _lost(steps: Steps) -> str:
    lost = steps.skipped + steps.undone
    return f"{lost:,} of {_count(steps.total, 'step')}" if lost else f"none of {_count(steps.total, 'step')}"


def _images(groups: Sequence[IncidentGroup], one: str, several: str) -> str:
    """Name the image that it was each time; count them where there were several."""
    names = list(dict.fromkeys(image for group in groups for image in group.images))
    if len(names) == 1:
        return f"{one} ({PureWindowsPath(names[0]).name})"
    return f"{several.format(len(names))}" if names else one


def _named(groups: Sequence[IncidentGroup], field: str) -> str:
    """Return what a field says most often, in brackets."""
    found = Counter(value for group in groups for entry in group.everything if (value := getattr(entry, field)))
    return f" ({found.most_common(1)[0][0]})" if found else ""


_WHAT: dict[str, Callable[[Sequence[IncidentGroup]], str]] = {
    Cause.IMAGE: lambda groups: _images(groups, "a broken image", "{} broken images"),
    Cause.LABEL: lambda groups: _images(groups, "a broken label", "broken labels of {} images"),
    Cause.PREPROCESSING: lambda groups: "preprocessing that turned good images into NaN" + _named(groups, "stage"),
    Cause.LOSS: lambda groups: "a loss that was not finite" + (_named(groups, "source") or _named(groups, "term")),
    Cause.PRECISION: lambda groups: "an overflow of low precision" + _named(groups, "failed_in"),
    Cause.ACTIVATIONS: lambda groups: "a layer whose output was not finite" + _named(groups, "layer"),
    Cause.WEIGHTS: lambda _: "weights that gave wrong results",
    Cause.TRANSIENT: lambda _: "a fault that did not happen again",
}
"""What each cause is called; what is not here has no short name."""


def _unclear(story: Story) -> str:
    return f"Too early to tell{_so_far(story.run)}: {_quiet(story.steps)}; {_accuracy(story.accuracy)}."


def _healthy(story: Story) -> str:
    so_far, known = _so_far(story.run), _accuracy(story.accuracy)
    if not story.steps.total:
        return f"No step was recorded{so_far}."
    # A user who trains without a validation knows it; one whose validation set is empty may not.
    empty = [reason for reason in story.reasons if reason.reason == Shortfall.NOT_VALIDATED and reason.value == 0]
    unknown = [reason.message for reason in empty]
    more = f"; {known}" if known else f"; accuracy is not known: {unknown[0]}" if unknown else ""
    return f"Healthy{so_far}: {_quiet(story.steps)}{more}."


def _so_far(run: Run) -> str:
    if interrupted(run):
        return " before it was interrupted"
    return " so far" if status(run) == "unfinished" else ""


def _quiet(steps: Steps) -> str:
    return f"{_count(steps.total, 'step')}, none skipped"


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
    where = f"at step {spike.step:,} (epoch {spike.epoch})" if spike.step else f"in epoch {spike.epoch} ({spike.name})"
    return f" The {spike.what} jumped to {spike.value:.1e} {where}, {spike.times:.0e} times its usual value."


def _short(value: float) -> str:
    """Write an accuracy with three digits, and 0 where it is nothing."""
    return f"{value:.3g}" if value >= 0.0005 else "0"


def _skipped(steps: Steps) -> str:
    verb = "was" if steps.skipped < 2 else "were"
    undone = f", {steps.undone} undone" if steps.undone else ""
    return f"{steps.skipped or 'none'} of {_count(steps.total, 'step')} {verb} skipped{undone}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
