"""What can be known of a training that had no guard, from what Ultralytics leaves behind.

Nothing here needs the trainer, PyTorch or Ultralytics: checkpoints come as plain facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from yolo_gradsafe.judge.learning import FEWEST_EPOCHS, NOTHING
from yolo_gradsafe.report.health import Health
from yolo_gradsafe.report.postmortem.advice import advise
from yolo_gradsafe.report.postmortem.checkpoint import Checkpoint
from yolo_gradsafe.report.postmortem.facts import CHECKPOINTS, Facts, locate_stock, read_facts
from yolo_gradsafe.report.postmortem.findings import LEARNED, find
from yolo_gradsafe.report.postmortem.record import CheckpointEntry, Finding, Learned, Postmortem

__all__ = ["CHECKPOINTS", "Facts", "Postmortem", "examine", "locate_stock", "read_facts"]

LOST = {"damaged_last", "validation_nan", "validation_zero", "validation_absurd", "loss_nan", "loss_zero"}
"""Errors with which an accuracy of 0 is no mere beginning."""
ABOUT = ("task", "model", "data", "imgsz", "batch", "optimizer", "lr0", "warmup_epochs", "amp", "device")


def examine(facts: Facts, defaults: Mapping[str, Any]) -> Postmortem:
    """Say what can be known of a training.

    Args:
        facts: What it left behind.
        defaults: Ultralytics' arguments and what they are without the user.
    """
    findings = find(facts)
    accuracy = np.nan_to_num(facts.accuracy)
    best = int(accuracy.argmax()) if len(accuracy) else -1
    about = {name: str(facts.arguments[name]) for name in ABOUT if facts.arguments.get(name) not in (None, "")}
    if facts.last is not None and facts.last.version:
        about["Ultralytics"] = facts.last.version
    health = _health(findings)
    learned = _learned(facts, findings)
    return Postmortem(
        status="finished" if facts.finished else "unfinished",
        health=health,
        learned=learned,
        headline=_headline(facts, findings),
        about=about,
        epochs=len(facts.epochs),
        planned=facts.planned,
        accuracy=facts.accuracy_column,
        best=float(accuracy[best]) if best >= 0 else None,
        best_epoch=facts.epochs[best] if best >= 0 else 0,
        last=float(facts.accuracy[-1]) if best >= 0 else None,
        findings=findings,
        advice=advise(facts, findings, defaults),
        checkpoints=[_entry(one) for one in facts.checkpoints],
    )


def _health(findings: Sequence[Finding]) -> Health:
    worst = {finding.severity for finding in findings}
    return "failed" if "error" in worst else "survived" if "warning" in worst else "healthy"


def _learned(facts: Facts, findings: Sequence[Finding]) -> Learned:
    kinds = {finding.kind for finding in findings if finding.severity != "note"}
    accuracy = np.nan_to_num(facts.accuracy)
    lost = any(finding.severity == "error" and finding.kind in LOST for finding in findings)
    if facts.unlearned or "collapsed" in kinds or (lost and len(accuracy) and accuracy[-1] < NOTHING):
        return "no"
    return "yes" if len(accuracy) and accuracy[-1] >= LEARNED else "unknown"


def _headline(facts: Facts, findings: Sequence[Finding]) -> str:
    """Say in one sentence how the run went: the worst of it, else that nothing wrong is on record."""
    where = _end(facts)
    serious = [finding for finding in findings if finding.severity != "note"]
    if serious:
        return " ".join(part for part in (serious[0].title, _accuracy(facts), where) if part)
    if not facts.epochs:
        return f"No epoch is on record. {where}".strip()
    count = f"{len(facts.epochs)} epoch{'s' * (len(facts.epochs) != 1)}"
    accuracy = np.nan_to_num(facts.accuracy)
    known = ""
    if len(accuracy):
        best = int(accuracy.argmax())
        known = f", {facts.accuracy_column} {accuracy[best]:.3g} in epoch {facts.epochs[best]}"
        if accuracy[best] < LEARNED and len(accuracy) < FEWEST_EPOCHS:
            known = f", too few to say whether the model learns ({facts.accuracy_column} {accuracy[best]:.3g})"
    return f"Nothing wrong is on record: {count}{known}. {where}".strip()


def _accuracy(facts: Facts) -> str:
    values = np.nan_to_num(facts.accuracy)
    if not len(values):
        return ""
    best, name = int(values.argmax()), facts.accuracy_column
    if values[best] == 0:
        return f"{name} is 0."
    if values[-1] == values[best]:
        return f"{name} is {values[best]:.3g}."
    return f"{name} was {values[best]:.3g} in epoch {facts.epochs[best]} and is {values[-1]:.3g}."


def _end(facts: Facts) -> str:
    """Say where the records end, if that is not where training was to end."""
    done = facts.epochs[-1] if facts.epochs else 0
    if facts.finished:
        return f"It stopped after epoch {done} of {facts.planned}, by patience or time." * (done < facts.planned)
    if facts.may_run:
        return f"It may still be running: epoch {done} of {facts.planned} is done."
    return (
        f"The records end after epoch {done} of {facts.planned}: killed, interrupted, or ended by an error, as "
        "Ultralytics does when an epoch stays NaN."
    )


def _entry(one: Checkpoint) -> CheckpointEntry:
    state = one.error or ("damaged" if one.damaged else "batch-norm statistics are off" if one.batchnorm else "sound")
    return CheckpointEntry(file=one.file, state=state, epoch=one.epoch, tensors=one.tensors)
