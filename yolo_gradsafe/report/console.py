"""The report on a terminal: a table at the end of training, a line after an epoch in which something happened."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from yolo_gradsafe.telemetry.schema import Remedy, Verdict
from yolo_gradsafe.telemetry.sentences import cost, held, stock

if TYPE_CHECKING:
    from yolo_gradsafe.report.incident_groups import IncidentGroup
    from yolo_gradsafe.report.parts import Advice, Outcome
    from yolo_gradsafe.report.summary import Summary

__all__ = ["WIDTH", "epoch_line", "learned", "row", "shown", "table"]

WIDTH = 80
LABEL = 16
MOST_INCIDENTS = 5
MOST_IMAGES = 3

_EVENTS = {
    Verdict.BAD_BATCH: ("bad batch", "bad batches"),
    Verdict.POISONED: ("poisoned step", "poisoned steps"),
    Verdict.SPIKE: ("spike", "spikes"),
    Verdict.DIVERGING: ("diverging step", "diverging steps"),
    Verdict.STALLED: ("stalled step", "stalled steps"),
}
"""The verdicts that are worth a line, the worst first; clipping and AMP's overflows are routine."""


def table(summary: Summary) -> str:
    """Return the summary as plain text, aligned, at most 80 columns wide, without a line break at its end."""
    lines = textwrap.wrap(shown(summary.headline), WIDTH)
    for label, texts in _rows(summary):
        for text in texts:
            lines += row(label, text)
            label = ""
    return "\n".join(lines)


def learned(summary: Summary) -> list[str]:
    """Return whether the model learned and why, in lines; nothing where nobody asked: no validation, nothing odd."""
    if summary.learned == "unknown" and summary.accuracy is None:
        return []
    first, *others = [reason.message for reason in summary.reasons] or [""]
    return [f"{summary.learned}{': ' * bool(first)}{first}", *(f"  {other}" for other in others)]


def epoch_line(epoch: int, counts: Mapping[str, int], norm_max: float) -> str | None:
    """Return a line on an epoch in which something happened, None on any other.

    Args:
        epoch: Epoch, from 1.
        counts: Its steps by verdict; verdicts may be missing.
        norm_max: Its largest gradient norm before clipping; left out of the line if it is not finite.
    """
    events = [
        f"{count} {words[count > 1]}" for verdict, words in _EVENTS.items() if (count := counts.get(verdict.value, 0))
    ]
    if not events:
        return None
    norm = f"; largest gradient norm {norm_max:.3g}" if math.isfinite(norm_max) else ""
    steps = sum(counts.values())
    return f"epoch {epoch}: {', '.join(events)} in {steps} step{'s' * (steps != 1)}{norm}"


def _rows(summary: Summary) -> Iterator[tuple[str, Iterable[str]]]:
    steps, norm, amp = summary.steps, summary.grad_norm, summary.amp
    clipped = f"{steps.clipped} clipped ({100 * steps.clipped_share:.1f} %)"
    if found := learned(summary):
        yield "learned", found
    if found := list(_accuracy(summary)):
        yield "accuracy", found
    undone = f", {steps.undone} undone" if steps.undone else ""
    yield "steps", [f"{steps.applied} applied, {clipped}, {steps.skipped} skipped{undone}"]
    if norm:
        yield "gradient norm", [f"median {norm.median:.4g}, p95 {norm.p95:.4g}, max {norm.max:.4g}"]
    else:
        yield "gradient norm", ["no step had a finite norm"]
    yield "threshold", ["none" if summary.threshold is None else f"{summary.threshold:.4g}"]
    if amp.enabled:
        yield "AMP", list(_amp(summary))
    if summary.incidents:
        from yolo_gradsafe.report.incident_groups import incident_groups

        yield "incidents", list(_incidents(incident_groups(summary.incidents), summary.outcomes))
    if summary.advice:
        yield "advice", [line for advice in summary.advice for line in _advice(advice)]
    if damaged := damaged_records(summary):
        yield "records", [damaged]
    if summary.files:
        yield "files", [", ".join(summary.files)]


def damaged_records(summary: Summary) -> str:
    """Say what of the records cannot be read; empty where all of it can."""
    count = summary.damaged_steps
    lines = f"{count:,} line{'s' * (count != 1)} of stability/steps.csv"
    return f"{lines} cannot be read and {'are' if count != 1 else 'is'} left out" if count else ""


def _accuracy(summary: Summary) -> Iterator[str]:
    best, earlier = summary.accuracy, summary.earlier
    if best:
        last = f"{best.last:.3g} in epoch {best.last_epoch}" if best.last_epoch != best.best_epoch else "the last"
        yield f"{best.metric} {best.best:.3g} in epoch {best.best_epoch}, {last}"
    if best and earlier:
        yield f"{earlier.metric} {earlier.best:.3g} in {shown(earlier.name)}, the last run of the same data and model"


def _amp(summary: Summary) -> Iterator[str]:
    amp = summary.amp
    if amp.scale_first is not None and amp.scale_last is not None and amp.scale_min is not None:
        yield f"scale {amp.scale_first:.7g} to {amp.scale_last:.7g}, lowest {amp.scale_min:.7g}"
    yield f"{amp.overflows} overflow{'s' * (amp.overflows != 1)} (routine)" if amp.overflows else "no overflow"


def _advice(advice: Advice) -> Iterator[str]:
    yield shown(advice.title)
    yield from (f"  {shown(text)}" for text in (advice.options, advice.arguments, advice.command) if text)


def _incidents(found: list[IncidentGroup], outcomes: list[Outcome]) -> Iterator[str]:
    stock_said = ""
    for number, group in enumerate(found[:MOST_INCIDENTS]):
        incident = group.main
        yield f"epoch {incident.epoch}, batch {incident.batch}, step {incident.step}: {shown(incident.message)}"
        if incident.culprit:
            yield f"  culprit: {shown(incident.culprit)}"
        if incident.images:
            names = ", ".join(shown(PureWindowsPath(image).name) for image in incident.images[:MOST_IMAGES])
            more = len(incident.images) - MOST_IMAGES
            yield f"  images: {names}{f' and {more} more' if more > 0 else ''}"
        yield f"  action: {shown(incident.action)}"
        yield from (f"  then: {shown(remedy.action)}" for remedy in group.done[1:])
        if number < len(outcomes) and group.is_trouble:
            came = outcomes[number]
            helped = held(came.held, came.healthy_since) if Remedy.OBSERVED not in incident.remedies else ""
            if text := "; ".join(filter(None, (helped, cost(came.steps_lost)))):
                yield f"  {text}"
            if (text := stock(came.stock)) and text != stock_said:
                yield f"  stock Ultralytics: {text}"
            stock_said = text
    more = len(found) - MOST_INCIDENTS
    if more > 0:
        yield f"and {more} more in stability/incidents.jsonl"


def row(label: str, text: str) -> list[str]:
    """Return a text in the right column, broken at its width, what is broken indented like its first line."""
    indent = " " * (len(text) - len(text.lstrip()))
    first, other = f"  {label:<{LABEL}}", " " * (LABEL + 2)
    return textwrap.wrap(
        text.strip(), WIDTH, initial_indent=first + indent, subsequent_indent=other + indent, break_on_hyphens=False
    )


def shown(text: str) -> str:
    """Return a text from outside, such as a file's name, without what a terminal would obey."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
