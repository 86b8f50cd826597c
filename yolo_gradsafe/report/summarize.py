"""How a summary is made: the records of a run in, what ``stability.json`` holds out."""

from __future__ import annotations

from pathlib import Path

from yolo_gradsafe.report import tally
from yolo_gradsafe.report.advice import Facts, advise
from yolo_gradsafe.report.beside import read_arguments, read_layers, read_quarantine
from yolo_gradsafe.report.health import DIVERGED, headline, health, status
from yolo_gradsafe.report.incident_groups import troubles
from yolo_gradsafe.report.records import locate, present, read_incidents, read_options, read_run, read_steps
from yolo_gradsafe.report.summary import Summary

__all__ = ["summarize"]


def summarize(run: Path) -> Summary:
    """Summarize a run from its records; it may have finished, crashed, or still run.

    Args:
        run: The run's folder, its ``stability/`` folder, or a file in either.

    Raises:
        OSError: A record cannot be read.
        ReportError: There are no records.
    """
    paths = locate(Path(run))
    rows, incidents, info = read_steps(paths), read_incidents(paths), read_run(paths)
    options = read_options(paths)
    facts = Facts(rows, read_layers(paths), incidents, info, options, read_arguments(paths), read_quarantine(paths))
    steps, skipped_at_end = tally.steps(rows), tally.skipped_at_end(rows)
    places = rows["epoch"].tail(1).to_list() or [incident.epoch for incident in incidents[-1:]]
    troubled, last = troubles(incidents), max(places, default=0)
    diverged = max((incident.epoch for incident in incidents if incident.kind in DIVERGED), default=0)
    lost = sum(incident.steps_lost for incident in incidents)
    return Summary(
        status=status(info),
        health=health(info, steps, troubled, skipped_at_end),
        headline=headline(info, steps, troubled, skipped_at_end, last, diverged, lost),
        run=info,
        steps=steps,
        grad_norm=tally.grad_norm(rows),
        threshold=tally.threshold(rows),
        amp=tally.amp(rows, info.amp),
        incidents=incidents,
        advice=advise(facts),
        epochs=tally.epochs(rows),
        options=options,
        files=present(paths),
    )
