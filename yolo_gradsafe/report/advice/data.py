"""Images that do harm, and what a bad one costs."""

from __future__ import annotations

from pathlib import PureWindowsPath

from yolo_gradsafe.report.advice.facts import Facts, plural
from yolo_gradsafe.report.parts import Advice

__all__ = ["accumulation", "quarantined"]

FEWEST = 5
SHARE = 0.01
"""Skipped steps, and their share, from which on accumulation is worth a change."""


def quarantined(facts: Facts) -> Advice | None:
    """Files that spoilt a batch more than once."""
    files = facts.quarantined
    if not files:
        return None
    names = ", ".join(PureWindowsPath(file).name for file in files[:3])
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return Advice(
        rule="quarantined",
        title="Repair these images or their labels, or take them out of the data set.",
        evidence=f"{plural(len(files), 'file')} made batches fail and "
        f"{'was' if len(files) == 1 else 'were'} quarantined: {names}{more}. All are in stability/quarantine.txt.",
        command=f"gradsafe check {facts.arguments.get('data') or 'DATA.yaml'}",
    )


def accumulation(facts: Facts) -> Advice | None:
    """With accumulation one bad micro-batch costs the gradients of its whole window."""
    skipped = int(facts.rows["skipped"].sum())
    if facts.accumulate < 2 or skipped < FEWEST or skipped < SHARE * facts.rows.height or not facts.run.batch:
        return None
    recovery = facts.options.get("recovery")
    isolates = isinstance(recovery, dict) and recovery.get("isolate") == "auto"
    return Advice(
        rule="accumulation",
        title="Drop only the bad batch instead of its whole accumulation window.",
        evidence=f"{plural(skipped, 'optimizer step')} of {facts.rows.height:,} were skipped, each with "
        f"{facts.accumulate} batches of {facts.run.batch}: {skipped * facts.accumulate:,} batches lost.",
        options="recovery: {isolate: always}" if isolates else "",
        arguments="" if isolates else f"nbs={facts.run.batch}",
    )
