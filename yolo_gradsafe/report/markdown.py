"""The summary as Markdown, to paste into an issue or a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PureWindowsPath

from yolo_gradsafe.report.escaped import code, plain
from yolo_gradsafe.report.figures import about, figures
from yolo_gradsafe.report.incident_groups import IncidentGroup, incident_groups
from yolo_gradsafe.report.page.cards import label
from yolo_gradsafe.report.parts import Outcome
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.telemetry.sentences import cost, stock

__all__ = ["markdown"]

MOST = 20
"""Incidents that are listed at most."""
IMAGES = 3
"""Images that are named of each."""


def markdown(summary: Summary) -> str:
    """Return the summary as GitHub's Markdown; text from outside cannot mark anything up."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    yield f"## {plain(summary.headline)}"
    yield ""
    if known := about(summary.run):
        yield " · ".join(map(plain, known))
        yield ""
    yield "| | | |"
    yield "| --- | ---: | --- |"
    for figure in figures(summary):
        yield f"| {figure.name} | **{figure.value}** | {figure.detail} |"
    if summary.learned == "no":
        yield "\n### Why it did not learn\n"
        yield from (f"- {plain(reason.message)}" for reason in summary.reasons)
    if summary.advice:
        yield "\n### Advice\n"
    for advice in summary.advice:
        yield f"- **{plain(advice.title)}** {plain(advice.evidence)}"
        yield from (f"  `{code(text)}`" for text in (advice.options, advice.arguments, advice.command) if text)
    found = incident_groups(summary.incidents)
    if found:
        yield "\n### Incidents\n"
        yield "| Epoch | Batch | Step | What | Images | Done | Cost | Stock Ultralytics |"
        yield "| ---: | ---: | ---: | --- | --- | --- | --- | --- |"
        came = dict(enumerate(summary.outcomes))
        yield from (_incident(group, came.get(number)) for number, group in enumerate(found[:MOST]))
    if len(found) > MOST:
        yield f"\nand {len(found) - MOST} more in `stability/incidents.jsonl`"


def _incident(group: IncidentGroup, came: Outcome | None) -> str:
    main = group.main
    seen = f"{label(main.kind)}: {main.message}" + f" ({main.culprit})" * bool(main.culprit)
    names = ", ".join(PureWindowsPath(image).name for image in main.images[:IMAGES])
    more = len(main.images) - IMAGES
    images = names + (f" and {more} more" if more > 0 else "")
    done = "; ".join(entry.action.rstrip(".") for entry in group.done)
    outcome = [cost(came.steps_lost), stock(came.stock)] if came and group.is_trouble else ["", ""]
    cells = [seen, images, done, *outcome]
    return f"| {main.epoch} | {main.batch} | {main.step} | {' | '.join(map(plain, cells))} |"
