"""A summary as a notebook shows it: a small piece of HTML without scripts or styles of the page around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from yolo_gradsafe.report.console import shown

if TYPE_CHECKING:
    from yolo_gradsafe.report.summary import Summary

__all__ = ["notice", "summary_html"]

GOOD, WARN, BAD = "#00664b", "#a35f00", "#c4122f"
TONES = {"healthy": GOOD, "survived": WARN, "unclear": WARN, "unlearned": BAD, "failed": BAD}
MOST = 5
"""Incidents that are shown at most."""
WIDE, HIGH = 260, 64
"""Pixels of a plot."""
MUTED = "opacity:.65;font-size:12px"


def summary_html(summary: Summary) -> str:
    """Return verdict, figures, plots, incidents and advice of a run; text from outside is escaped."""
    return _box("".join(_parts(summary)))


def notice(title: str, text: str) -> str:
    """Return a line or two about a guard that has nothing to show yet."""
    return _box(f'<div style="font-weight:600">{_text(title)}</div><div style="{MUTED}">{_text(text)}</div>')


def _parts(summary: Summary) -> Iterator[str]:
    from yolo_gradsafe.report.figures import about, figures

    tone = TONES[summary.verdict.value]
    yield (
        f'<div><span style="background:{tone};color:#fff;border-radius:10px;padding:1px 9px;font-size:12px">'
        f'{summary.verdict.label}</span> <b style="font-size:15px">{_text(summary.headline)}</b></div>'
    )
    if known := about(summary.run):
        yield f'<div style="{MUTED};margin:3px 0">{_text(" · ".join(known))}</div>'
    cells = "".join(
        f'<div style="margin-right:28px" title="{_text(figure.meaning)}">'
        f'<div style="{MUTED}">{_text(figure.name)}</div>'
        f'<div style="font-size:18px;font-weight:600">{_text(figure.value)}</div>'
        f'<div style="{MUTED}">{_text(figure.detail)}</div></div>'
        for figure in figures(summary)
    )
    yield f'<div style="display:flex;flex-wrap:wrap;margin:8px 0">{cells}</div>'
    norms = [epoch.grad_norm_median for epoch in summary.epochs]
    losses = [epoch.loss_mean for epoch in summary.epochs]
    plots = _plot("gradient norm by epoch, median", norms, "#0072b2") + _plot("loss by epoch, mean", losses, "#a35f00")
    if plots:
        yield f'<div style="display:flex;flex-wrap:wrap">{plots}</div>'
    yield from _incidents(summary)
    yield from _advice(summary)


def _incidents(summary: Summary) -> Iterator[str]:
    from yolo_gradsafe.report.incident_groups import incident_groups

    found = incident_groups(summary.incidents)
    if not found:
        return
    rows = "".join(
        f"<li>epoch {group.main.epoch}, batch {group.main.batch}: {_text(group.main.message)} "
        f"{_text(group.main.culprit)} <i>{_text(group.main.action)}</i></li>"
        for group in found[:MOST]
    )
    more = f"<li>and {len(found) - MOST} more in stability.html</li>" if len(found) > MOST else ""
    yield f'<div style="font-weight:600;margin-top:6px">Incidents</div><ul style="margin:2px 0">{rows}{more}</ul>'


def _advice(summary: Summary) -> Iterator[str]:
    if not summary.advice:
        return
    rows = ""
    for advice in summary.advice:
        pasted = "".join(f" <code>{_text(t)}</code>" for t in (advice.options, advice.arguments, advice.command) if t)
        rows += f"<li><b>{_text(advice.title)}</b> {_text(advice.evidence)}{pasted}</li>"
    yield f'<div style="font-weight:600;margin-top:6px">Advice</div><ul style="margin:2px 0">{rows}</ul>'


def _plot(title: str, values: Sequence[float | None], color: str) -> str:
    """Return a line over the epochs as SVG, logarithmic where it spans a lot; nothing for less than two points."""
    points = [(k, float(v)) for k, v in enumerate(values) if v is not None and math.isfinite(v)]
    if len(points) < 2:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    if low > 0 and high > 20 * low:
        points = [(k, math.log(v)) for k, v in points]
    bottom, top = min(v for _, v in points), max(v for _, v in points)
    last, span = points[-1][0] - points[0][0] or 1, top - bottom or 1.0
    line = " ".join(
        f"{4 + (WIDE - 8) * (k - points[0][0]) / last:.1f},{HIGH - 4 - (HIGH - 8) * (v - bottom) / span:.1f}"
        for k, v in points
    )
    return (
        f'<div style="margin-right:28px"><div style="{MUTED}">{_text(title)}: {low:.3g} to {high:.3g}</div>'
        f'<svg width="{WIDE}" height="{HIGH}" role="img" aria-label="{_text(title)}">'
        f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.8"/></svg></div>'
    )


def _box(inside: str) -> str:
    style = (
        "border:1px solid rgba(128,128,128,.35);border-radius:8px;padding:10px 14px;max-width:960px;line-height:1.45"
    )
    return f'<div style="{style}">{inside}</div>'


def _text(text: str) -> str:
    return escape(shown(text))
