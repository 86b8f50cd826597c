"""Batch normalisation that was poisoned."""

from __future__ import annotations

from collections import Counter

from yolo_gradsafe.report.advice.amp import wider
from yolo_gradsafe.report.advice.facts import UNPROVEN, Facts, check_command, plural, rounded
from yolo_gradsafe.report.parts import Advice, IncidentEntry
from yolo_gradsafe.telemetry.schema import Cause, Learned, Place

__all__ = ["lags", "poisoned"]

REPEATED = 3
"""Incidents that make a pattern."""
_STATISTICS = ("running_mean", "running_var")


def poisoned(facts: Facts) -> Advice | None:
    """Statistics of batch normalisation that went non-finite again and again."""
    hit = [i for i in facts.of_kind("poisoned", "healed") if _of_statistics(i)]
    if len({incident.step for incident in hit}) < REPEATED:
        return None
    layers = Counter(incident.layer for incident in hit if incident.layer).most_common(1)
    where = f", most often in {layers[0][0]}" if layers else ""
    fp16 = facts.run.amp == "fp16"
    bad_data = any(i.cause in (Cause.IMAGE, Cause.LABEL) for i in facts.incidents)
    layer = layers[0][0] if layers else "the model"
    return Advice(
        rule="batchnorm_poisoned",
        title="Train in a precision with a larger range."
        if fp16
        else "Check the images: some make activations NaN or Inf."
        if bad_data
        else f"Check {layer}: its activations become NaN or Inf.",
        evidence=f"The batch-norm statistics became NaN or Inf and were restored in "
        f"{plural(len({i.step for i in hit}), 'step')}{where}.",
        arguments=wider(facts) if fp16 else "",
        command="" if fp16 or not bad_data else check_command(facts),
    )


def lags(facts: Facts) -> Advice | None:
    """Statistics that could not follow the weights; where the model learned all the same, its rate is a good one."""
    hit, lr0 = facts.of_kind("batchnorm_lag"), facts.arguments.get("lr0")
    if (
        not hit
        or facts.learning.learned is Learned.YES
        or not isinstance(lr0, (int, float))
        or facts.arguments.get("optimizer") == "auto"
    ):
        return None
    return Advice(
        rule="batchnorm_lag",
        title="Lower the learning rate somewhat, or train for longer.",
        evidence=f"In epoch {hit[0].epoch} the validation loss was far too large, or 0, while the training loss was "
        "fine: the weights moved faster than their batch-norm statistics. These have followed faster since.",
        arguments=f"lr0={rounded(lr0 * UNPROVEN):g}",
    )


def _of_statistics(incident: IncidentEntry) -> bool:
    """Whether an incident is about statistics of batch normalisation."""
    names = (name.split(" ")[0] for name in incident.tensors)  # "NAME on rank 1"
    return incident.place == Place.BATCHNORM or any(name.endswith(_STATISTICS) for name in names)
