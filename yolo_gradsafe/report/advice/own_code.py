"""Faults that no setting mends: the loss, a block or the preprocessing makes values that are not finite."""

from __future__ import annotations

from collections import Counter

from yolo_gradsafe.report.advice.facts import Facts, plural
from yolo_gradsafe.report.parts import Advice, IncidentEntry
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["broken", "is_to_blame"]

_WHAT = {
    Cause.LOSS: "the loss",
    Cause.EVERY_BATCH: "the training",
    Cause.PREPROCESSING: "the preprocessing",
    Cause.ACTIVATIONS: "the model",
}
_OF_OTHERS = ("ultralytics/", "torch/")
"""What the places of lines start with that are not the user's."""


def is_to_blame(incident: IncidentEntry) -> bool:
    """Whether the user's own code made values that are not finite of images that are fine."""
    if incident.cause not in _WHAT or incident.source.startswith(_OF_OTHERS):
        return False
    return bool(incident.source) or incident.cause != Cause.ACTIVATIONS  # a model that diverges overflows as well


def broken(facts: Facts) -> Advice | None:
    """A line of code, or at least a part of the training, that made NaN or Inf of finite values."""
    hit = [i for i in facts.incidents if is_to_blame(i)]
    if not hit:
        return None
    lines = Counter(i.source for i in hit if i.source).most_common(1)
    chosen = [i for i in hit if i.source == lines[0][0]] if lines else hit
    one = next((i for i in chosen if i.cause == Cause.EVERY_BATCH), chosen[0])
    where = lines[0][0] if lines else one.layer or one.term or one.stage
    steps = plural(len({i.step for i in chosen}), "step")
    told = f" {one.operation}." if one.operation else ""
    end = " Every batch failed, so training was stopped." if one.cause == Cause.EVERY_BATCH else ""
    return Advice(
        rule="own_code",
        title=f"Fix {where}: {_WHAT[Cause(one.cause)]} produces NaN or Inf there."
        if where
        else f"Fix {_WHAT[Cause(one.cause)]}: it produces NaN or Inf.",
        evidence=f"{steps} failed because of it.{told}{end}",
    )
