"""Batch normalisation that was poisoned, and layers that stopped to learn."""

from __future__ import annotations

from collections import Counter

import polars as pl

from yolo_gradsafe.report.advice.amp import wider
from yolo_gradsafe.report.advice.facts import Facts, plural, rounded
from yolo_gradsafe.report.advice.learning_rate import muon, too_high
from yolo_gradsafe.report.parts import Advice, IncidentEntry
from yolo_gradsafe.telemetry.schema import Cause, Place

__all__ = ["dead", "poisoned"]

REPEATED = 3
"""Incidents that make a pattern."""
DEAD_EPOCHS = 2
"""Last epochs in which a layer had no gradient at all."""
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
        title="Train in a precision with more range."
        if fp16
        else "Check the images: activations are not finite."
        if bad_data
        else f"Look at {layer}: its activations do not stay finite.",
        evidence=f"The statistics of batch normalisation went non-finite and were put back in "
        f"{plural(len({i.step for i in hit}), 'step')}{where}.",
        arguments=wider(facts) if fp16 else "",
        command="" if fp16 or not bad_data else f"gradsafe check {facts.arguments.get('data') or 'DATA.yaml'}",
    )


def dead(facts: Facts) -> Advice | None:
    """A layer that learnt, and then had no gradient any more: its normalisation scales everything to zero."""
    layers = facts.layers
    epochs = layers["epoch"].unique().sort().to_list()
    if len(epochs) <= DEAD_EPOCHS:
        return None
    since = epochs[-DEAD_EPOCHS]
    norms = pl.col("norm_max")
    by_layer = layers.group_by("layer", maintain_order=True).agg(
        before=norms.filter(pl.col("epoch") < since).max(),
        after=norms.filter(pl.col("epoch") >= since).max(),
        last=pl.col("epoch").filter(norms > 0).max(),
    )
    gone = by_layer.filter((pl.col("before") > 0) & (pl.col("after") == 0))
    if gone.is_empty():
        return None
    names = ", ".join(gone["layer"].head(3).to_list())
    more = f" and {gone.height - 3} more" if gone.height > 3 else ""
    return Advice(
        rule="layer_dead",
        title="Start again with a lower learning rate: a layer has died.",
        evidence=f"{names}{more} had no gradient at all after epoch {gone['last'].to_list()[0]}, but had one before.",
        arguments="" if muon(facts) or too_high(facts) else f"lr0={rounded(facts.peak_lr / 2):g}",
    )


def _of_statistics(incident: IncidentEntry) -> bool:
    """Whether an incident is about statistics of batch normalisation."""
    names = (name.split(" ")[0] for name in incident.tensors)  # "NAME on rank 1"
    return incident.place == Place.BATCHNORM or any(name.endswith(_STATISTICS) for name in names)
