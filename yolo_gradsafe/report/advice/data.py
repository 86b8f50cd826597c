"""Images that do harm, and what a bad one costs."""

from __future__ import annotations

from pathlib import PureWindowsPath

from yolo_gradsafe.report.advice.facts import Facts, check_command, plural
from yolo_gradsafe.report.advice.own_code import is_to_blame
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["accumulation", "broken_images", "quarantined"]

FEWEST = 5
"""Skipped steps from which on accumulation is worth a change."""
SHARE = 0.01
"""Their share of all steps from which on it is."""


def quarantined(facts: Facts) -> Advice | None:
    """Files that made a batch fail more than once, and not because of the user's own code."""
    innocent = {image for incident in facts.incidents if is_to_blame(incident) for image in incident.images}
    files = [file for file in facts.quarantined if file not in innocent]
    if not files:
        return None
    return Advice(
        rule="quarantined",
        title="Repair these images or their labels, or take them out of the data set.",
        evidence=f"{plural(len(files), 'file')} made batches fail and "
        f"{'was' if len(files) == 1 else 'were'} quarantined: "
        f"{_named(files)}. All are in stability/quarantine.txt.",
        command=check_command(facts),
    )


def broken_images(facts: Facts) -> Advice | None:
    """Files that are proven to be broken, or to have a broken label, and were not quarantined."""
    blamed = [incident for incident in facts.incidents if incident.cause in (Cause.IMAGE, Cause.LABEL)]
    named = dict.fromkeys(image for incident in blamed for image in incident.images)
    files = [file for file in named if file not in facts.quarantined]
    if not files:
        return None
    one, steps = len(files) == 1, len({incident.step for incident in blamed})
    what = "label" if all(incident.cause == Cause.LABEL for incident in blamed) else "image"
    return Advice(
        rule="broken_images",
        title=f"Repair {'this' if one else 'these'} {what}{'s' * (not one)}, or take {'it' if one else 'them'} out of "
        "the data set.",
        evidence=f"{plural(len(files), 'file')} made {plural(steps, 'step')} fail: {_named(files)}.",
        command=check_command(facts),
    )


def _named(files: list[str]) -> str:
    names = ", ".join(PureWindowsPath(file).name for file in files[:3])
    return names + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def accumulation(facts: Facts) -> Advice | None:
    """With accumulation one bad micro-batch costs the gradients of its whole window."""
    skipped = int(facts.rows["skipped"].sum())
    if 2 * skipped > facts.rows.height:  # then it is not one batch of the window
        return None
    if facts.accumulate < 2 or skipped < FEWEST or skipped < SHARE * facts.rows.height or not facts.run.batch:
        return None
    recovery = facts.options.get("recovery")
    could_isolate = isinstance(recovery, dict) and recovery.get("isolate") in ("auto", "never")
    return Advice(
        rule="accumulation",
        title="Drop only the bad batch instead of its whole accumulation window.",
        evidence=f"{plural(skipped, 'optimizer step')} of {facts.rows.height:,} were skipped, each with "
        f"{facts.accumulate} batches of {facts.run.batch}: {skipped * facts.accumulate:,} batches lost.",
        options="recovery: {isolate: always}" if could_isolate else "",
        arguments="" if could_isolate else f"nbs={facts.run.batch}",
    )
