"""Counts and distributions: recorded steps in, parts of the summary out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from yolo_gradsafe.report.parts import Amp, Epoch, GradNorm, IncidentEntry, Spike, SpikeKind, Steps
from yolo_gradsafe.telemetry.schema import Kind, Verdict

__all__ = [
    "amp",
    "epochs",
    "grad_norm",
    "skipped_at_end",
    "spike",
    "steps",
    "taken_back",
    "threshold",
    "undone",
    "validation_spike",
]

SPIKE = 1e6
"""Times its usual value from which on a loss or a norm is named in the headline."""
USUAL = 1000
"""Steps, or epochs, before whose median is the usual value."""

_NORMS = pl.col("grad_norm").filter(pl.col("applied") & pl.col("grad_norm").is_finite())


def steps(rows: pl.DataFrame, incidents: Sequence[IncidentEntry] = ()) -> Steps:
    """Count the steps by what became of them, and by verdict."""
    applied, clipped = int(rows["applied"].sum()), int(rows["clipped"].sum())
    found = dict(rows["verdict"].value_counts().iter_rows())
    return Steps(
        total=rows.height,
        applied=applied,
        skipped=int(rows["skipped"].sum()),
        undone=undone(rows, incidents),
        clipped=clipped,
        clipped_share=clipped / applied if applied else 0.0,
        verdicts={str(verdict): found.get(str(verdict), 0) for verdict in Verdict},
    )


def undone(rows: pl.DataFrame, incidents: Sequence[IncidentEntry]) -> int:
    """Count the applied steps that rollbacks took back, each once: one rollback may go back behind another."""
    return int(rows.filter(pl.col("applied") & taken_back(incidents))["step"].n_unique())


def taken_back(incidents: Sequence[IncidentEntry]) -> pl.Expr:
    """Return whether a rollback took a step back."""
    inside = pl.lit(False)
    for incident in incidents:
        # Records of the first version had the count alone.
        count = incident.undone or (incident.steps_lost if incident.kind == Kind.ROLLBACK else 0)
        last = incident.snapshot + count if incident.snapshot >= 0 else incident.step - 1
        if count > 0:
            inside = inside | pl.col("step").is_between(last - count + 1, last)
    return inside


def spike(rows: pl.DataFrame) -> Spike | None:
    """Return the largest jump of the loss or the norm to ``SPIKE`` times its usual value; None where there is none."""
    return _largest([*_jumps(rows, "loss", "loss"), *_jumps(rows, "gradient norm", "grad_norm")])


def validation_spike(results: pl.DataFrame) -> Spike | None:
    """Return the largest such jump of a validation loss.

    Args:
        results: Ultralytics' ``results.csv``, a row an epoch.
    """
    if "epoch" not in results.columns:
        return None
    table = results.filter(pl.col("epoch").is_finite()).with_columns(pl.col("epoch").cast(pl.Int64), step=pl.lit(0))
    names = [name for name in table.columns if name.startswith("val/")]
    return _largest([found for name in names for found in _jumps(table, "validation loss", name)])


def _jumps(table: pl.DataFrame, what: SpikeKind, name: str) -> list[Spike]:
    """Return the largest jump of a column; none where it does not jump, or nothing sound came before."""
    sound = table.filter(pl.col(name).is_finite() & (pl.col(name) > 0))
    usual = pl.col(name).rolling_median(USUAL, min_samples=1).shift(1)
    times = (pl.col(name) / usual).clip(upper_bound=1e300)
    jumps = sound.select("epoch", "step", value=name, times=times).filter(pl.col("times") >= SPIKE)
    top = jumps.sort("times", descending=True).head(1)
    return [Spike(what=what, name=name, **row) for row in top.iter_rows(named=True)]


def _largest(found: Sequence[Spike]) -> Spike | None:
    return max(found, key=lambda one: one.times, default=None)


def grad_norm(rows: pl.DataFrame) -> GradNorm | None:
    """Return the distribution of the norm; None where no step was applied with a finite one."""
    shares = {"min": 0.0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    values = rows.select(_NORMS.quantile(share, "linear").alias(name) for name, share in shares.items())
    found = values.row(0, named=True)
    return None if found["max"] is None else GradNorm(**found)


def threshold(rows: pl.DataFrame) -> float | None:
    """Return the clip threshold of the last step; None where nothing clips."""
    last = rows["threshold"].tail(1).to_list()
    return last[0] if last and last[0] is not None and math.isfinite(last[0]) else None


def amp(rows: pl.DataFrame, precision: str) -> Amp:
    """Return what became of the loss scale.

    Args:
        rows: The recorded steps.
        precision: The run's precision; ``fp16`` goes with a GradScaler.
    """
    scales = rows["amp_scale"].drop_nulls()
    enabled = precision == "fp16" or bool((scales != 1).any())
    overflows = int(rows["overflow"].sum())
    if not enabled or scales.is_empty():
        return Amp(enabled=enabled, overflows=overflows)
    first, last = float(scales[0]), float(scales[-1])
    return Amp(
        enabled=True, overflows=overflows, scale_first=first, scale_min=float(scales.to_numpy().min()), scale_last=last
    )


def epochs(rows: pl.DataFrame) -> list[Epoch]:
    """Return one entry an epoch, in order."""
    table = rows.group_by("epoch").agg(
        steps=pl.len(),
        grad_norm_median=_NORMS.median(),
        grad_norm_max=_NORMS.max(),
        clipped=pl.col("clipped").sum(),
        skipped=pl.col("skipped").sum(),
        amp_overflows=pl.col("overflow").sum(),
        loss_mean=pl.col("loss").filter(pl.col("loss").is_finite()).mean(),
    )
    return [Epoch(**row) for row in table.sort("epoch").iter_rows(named=True)]


def skipped_at_end(rows: pl.DataFrame) -> int:
    """Return how many steps in a row were skipped last; GradScaler's overflows neither count nor interrupt."""
    outcomes = rows.filter(~pl.col("overflow"))["skipped"].to_list()
    return next((count for count, skipped in enumerate(reversed(outcomes)) if not skipped), len(outcomes))
