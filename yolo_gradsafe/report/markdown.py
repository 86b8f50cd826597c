"""The summary as Markdown, to paste into an issue or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PureWindowsPath

from yolo_gradsafe.report.console import shown
from yolo_gradsafe.report.figures import about, figures
from yolo_gradsafe.report.incident_groups import IncidentGroup, incident_groups
from yolo_gradsafe.report.page.cards import label
from yolo_gradsafe.report.summary import Summary

__all__ = ["markdown"]

MOST = 20
"""Incidents that are listed at most."""
IMAGES = 3
"""Images that are named of each."""


def markdown(summary: Summary) -> str:
    """Return the summary as GitHub's Markdown; text from outside cannot mark anything up."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    yield f"## {_plain(summary.headline)}"
    yield ""
    if known := about(summary.run):
        yield " · ".join(map(_plain, known))
        yield ""
    yield "| | | |"
    yield "| --- | ---: | --- |"
    for name, value, detail in figures(summary):
        yield f"| {name} | **{value}** | {detail} |"
    if summary.learned == "no":
        yield "\n### Why it did not learn\n"
        yield from (f"- {_plain(reason.message)}" for reason in summary.reasons)
    if summary.advice:
        yield "\n### Advice\n"
    for advice in summary.advice:
        yield f"- **{_plain(advice.title)}** {_plain(advice.evidence)}"
        yield from (f"  `{_code(text)}`" for text in (advice.options, advice.arguments, advice.command) if text)
    found = incident_groups(summary.incidents)
    if found:
        yield "\n### Incidents\n"
        yield "| Epoch | Batch | Step | What | Images | Done |"
        yield "| ---: | ---: | ---: | --- | --- | --- |"
        yield from map(_incident, found[:MOST])
    if len(found) > MOST:
        yield f"\nand {len(found) - MOST} more in `stability/incidents.jsonl`"


def _incident(group: IncidentGroup) -> str:
    main = group.main
    seen = f"{label(main.kind)}: {main.message}" + f" ({main.culprit})" * bool(main.culprit)
    names = ", ".join(PureWindowsPath(image).name for image in main.images[:IMAGES])
    more = len(main.images) - IMAGES
    images = names + (f" and {more} more" if more > 0 else "")
    done = "; ".join(entry.action.rstrip(".") for entry in group.done)
    return f"| {main.epoch} | {main.batch} | {main.step} | {_plain(seen)} | {_plain(images)} | {_plain(done)} |"


def _plain(text: str) -> str:
    """Return a text that Markdown leaves as it is."""
    escaped = re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", shown(text))
    return escaped.replace("@", "@\u200b")  # a name after it would be called


def _code(text: str) -> str:
    return shown(text).replace("`", "'")
