"""How a summary is made: the records of a run in, what ``stability.json`` holds out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from yolo_gradsafe.report import tally
from yolo_gradsafe.report.advice import Facts, advise
from yolo_gradsafe.report.beside import read_arguments, read_layers, read_quarantine, read_results
from yolo_gradsafe.report.earlier import earlier_run
from yolo_gradsafe.report.headline import Story, headline
from yolo_gradsafe.report.health import health, ran_away, status
from yolo_gradsafe.report.incident_groups import incident_groups
from yolo_gradsafe.report.learning import accuracy, by_epoch, learning, reason
from yolo_gradsafe.report.lowered_rate import lowered_rate
from yolo_gradsafe.report.outcomes import outcomes
from yolo_gradsafe.report.records import (
    damaged_steps,
    locate,
    present,
    read_incidents,
    read_options,
    read_run,
    read_steps,
)
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
    steps, skipped_at_end = tally.steps(rows, incidents), tally.skipped_at_end(rows)
    troubles = [group for group in incident_groups(incidents) if group.is_trouble]
    facts = Facts(
        rows=rows,
        layers=read_layers(paths),
        incidents=incidents,
        run=info,
        options=read_options(paths),
        arguments=read_arguments(paths),
        quarantined=read_quarantine(paths),
        results=read_results(paths),
    )
    found = learning(facts)
    places = rows["epoch"].tail(1).to_list() or [incident.epoch for incident in incidents[-1:]]
    story = Story(
        run=info,
        steps=steps,
        health=health(info, steps, len(troubles), skipped_at_end),
        learned=found.learned,
        reasons=[reason(finding) for finding in found.findings],
        accuracy=accuracy(facts),
        spike=tally.spike(rows),
        validation_spike=tally.validation_spike(facts.results),
        troubles=troubles,
        lowered=lowered_rate(facts),
        skipped_at_end=skipped_at_end,
        epoch=max(places, default=0),
        diverged=max((incident.epoch for incident in incidents if ran_away(incident.kind, incident.cause)), default=0),
    )
    advice = advise(replace(facts, learning=found, healthy=story.health == "healthy"))
    known = by_epoch(facts)
    return Summary(
        status=status(info),
        health=story.health,
        learned=story.learned.value,
        reasons=story.reasons,
        headline=headline(story),
        accuracy=story.accuracy,
        earlier=earlier_run(paths, info, facts.arguments),
        spike=story.spike,
        validation_spike=story.validation_spike,
        lowered_rate=story.lowered,
        run=info,
        steps=steps,
        grad_norm=tally.grad_norm(rows),
        threshold=tally.threshold(rows),
        amp=tally.amp(rows, info.amp),
        incidents=incidents,
        outcomes=outcomes(facts, advice),
        advice=advice,
        epochs=[epoch.model_copy(update=known.get(epoch.epoch, {})) for epoch in tally.epochs(rows)],
        options=facts.options,
        damaged_steps=damaged_steps(paths, rows),
        files=present(paths),
    )
