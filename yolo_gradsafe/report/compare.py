"""Several runs side by side: what came out, what happened on the way, what was set differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from yolo_gradsafe.report.beside import read_arguments, read_results
from yolo_gradsafe.report.figures import flat
from yolo_gradsafe.report.incident_groups import troubles
from yolo_gradsafe.report.records import locate, read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.report.summary import Summary

__all__ = ["Comparison", "Member", "Row", "compare", "gather"]

OWN = {"name", "project", "save_dir", "exist_ok", "resume", "mode"}
"""Arguments of Ultralytics that differ between any two runs."""


@dataclass(frozen=True)
class Member:
    """One run of a comparison."""

    name: str
    summary: Summary
    rows: pl.DataFrame
    arguments: dict[str, Any]
    results: pl.DataFrame


@dataclass(frozen=True)
class Row:
    """One thing that is compared, with a value a run."""

    name: str
    values: list[str]


@dataclass(frozen=True)
class Comparison:
    """What a table of runs shows, by section."""

    names: list[str]
    sections: dict[str, list[Row]] = field(default_factory=dict)


def gather(runs: Sequence[Path], tell: Callable[[str], None] = lambda step: None) -> list[Member]:
    """Read the runs.

    Args:
        runs: Their folders.
        tell: Called with what is about to be done.

    Raises:
        OSError: A record cannot be read.
        ReportError: A folder has no records, or those of a newer version.
    """
    found = []
    for path, name in zip(runs, _names(runs), strict=True):
        tell(f"reading {name}")
        paths = locate(Path(path))
        summary = summarize(paths.run)
        found.append(Member(name, summary, read_steps(paths), read_arguments(paths), read_results(paths)))
    return found


def compare(members: Sequence[Member]) -> Comparison:
    """Lay the runs side by side; a row whose values nobody recorded is left out."""
    sections = {
        "Outcome": [*_outcome(members), *_metrics(members)],
        "Gradients": list(_gradients(members)),
        "Cost": list(_cost(members)),
        "Settings that differ": list(_differences(members)),
    }
    kept = {
        title: [row for row in rows if any(value not in ("", "–") for value in row.values)]
        for title, rows in sections.items()
    }
    return Comparison([member.name for member in members], {title: rows for title, rows in kept.items() if rows})


def _names(runs: Sequence[Path]) -> list[str]:
    """Return short names that tell the runs apart."""
    whole = [Path(run).absolute() for run in runs]
    whole = [path.parent if path.name == "stability" or path.is_file() else path for path in whole]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(whole, 1)]


def _outcome(members: Sequence[Member]) -> Iterator[Row]:
    summaries = [member.summary for member in members]
    yield Row("health", [summary.health for summary in summaries])
    yield Row("learned", [summary.learned for summary in summaries])
    yield Row("status", [summary.status for summary in summaries])
    yield Row("epochs", [f"{len(summary.epochs)}" for summary in summaries])
    yield Row("incidents", [f"{troubles(summary.incidents):,}" for summary in summaries])


def _metrics(members: Sequence[Member]) -> Iterator[Row]:
    """Yield the metrics of the last epoch, as Ultralytics recorded them."""
    names = dict.fromkeys(n for m in members for n in m.results.columns if n.startswith(("metrics/", "val/")))
    for name in names:
        finals = [m.results[name].tail(1).to_list() if name in m.results.columns else [] for m in members]
        yield Row(name, [_brief(final[0]) if final else "–" for final in finals])


def _gradients(members: Sequence[Member]) -> Iterator[Row]:
    summaries = [member.summary for member in members]
    norms = [summary.grad_norm for summary in summaries]
    yield Row("optimizer steps", [f"{s.steps.total:,}" for s in summaries])
    yield Row("skipped", [f"{s.steps.skipped:,}" for s in summaries])
    yield Row("clipped", [f"{100 * s.steps.clipped_share:.1f} %" for s in summaries])
    yield Row("AMP overflows", [f"{s.amp.overflows:,}" if s.amp.enabled else "–" for s in summaries])
    yield Row("norm, median", [_brief(norm.median) if norm else "–" for norm in norms])
    yield Row("norm, p95", [_brief(norm.p95) if norm else "–" for norm in norms])
    yield Row("norm, largest", [_brief(norm.max) if norm else "–" for norm in norms])
    yield Row("threshold", [_brief(s.threshold) for s in summaries])


def _cost(members: Sequence[Member]) -> Iterator[Row]:
    """Yield the time an epoch took, and how that compares to the first run: the overhead, if only gradsafe differs."""
    seconds = [_epoch_seconds(member.results) for member in members]
    first = seconds[0]
    yield Row("seconds an epoch", [_brief(value) for value in seconds])
    yield Row("of the first run's", [f"x{v / first:.3f}" if v and first and any(seconds[1:]) else "–" for v in seconds])


def _epoch_seconds(results: pl.DataFrame) -> float | None:
    if "time" not in results.columns or results.height < 2:
        return None
    value = results["time"].diff().drop_nulls().median()
    return float(value) if isinstance(value, (int, float)) else None


def _differences(members: Sequence[Member]) -> Iterator[Row]:
    settings = []
    for member in members:
        run = member.summary.run
        arguments = {name: value for name, value in member.arguments.items() if name not in OWN}
        versions = {f"version of {name}": value for name, value in run.environment.items()}
        ours = [(f"gradsafe.{name}", value) for name, value in flat(member.summary.options)]
        settings.append({**versions, **dict(flat(arguments)), **dict(ours)})
    for name in dict.fromkeys(name for setting in settings for name in setting):
        values = [setting.get(name, "–") for setting in settings]
        if len({value for value in values if value != "–"}) > 1:  # not recorded is not set differently
            yield Row(name, values)


def _brief(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
