"""Does one part of the model drown the others, or hear nothing?"""

from __future__ import annotations

import math

import polars as pl

from yolo_gradsafe.report.advice.facts import MIN_SETTLED_STEPS, SCALE_FREE, Facts, number, rounded
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.report.records import STAGE, stage_columns

__all__ = ["dominating", "vanishing"]

DOMINATES = 0.98
"""Share of the squared norm that one stage has in half of the steps."""
VANISHES = 1e-6
"""Norm of a stage over that of the whole model, in half of the steps."""


def dominating(facts: Facts) -> Advice | None:
    """A stage whose norm decides how far every other is scaled down."""
    columns = stage_columns(facts.rows)
    settled = facts.settled.filter(pl.col("grad_norm") > 0)
    if len(columns) < 2 or settled.height < MIN_SETTLED_STEPS or facts.clip_option("stages"):
        return None
    share = facts.settled["clipped"].to_numpy().mean()
    squares = settled.select((pl.col(name) / pl.col("grad_norm")).pow(2).fill_nan(None).median() for name in columns)
    top, value = max(squares.row(0, named=True).items(), key=lambda item: item[1] or 0)
    if share < 0.5 or not DOMINATES <= (value or 0) < math.inf:
        return None
    others = settled.select((pl.col("grad_norm").pow(2) - pl.col(top).pow(2)).clip(0).sqrt().median()).item()
    stage = top.removeprefix(STAGE)
    # The two together as long as what is let through now, so that the learning rate still fits.
    limit = rounded(float(settled["threshold"].median() or 10.0))  # type: ignore[arg-type]
    return Advice(
        rule="stage_dominates",
        title=f"Clip {stage} separately.",
        evidence=f"{stage} had {100 * value:.1f} % of the squared gradient norm in half of the steps, and "
        f"{100 * share:.0f} % of the steps were clipped. This also scaled down the gradients of the rest of the "
        f"model, whose median norm was only {number(others)}.",
        options=f"clip: {{stages: {{{stage}: {{max_norm: {limit:g}}}}}}}",
    )


def vanishing(facts: Facts) -> Advice | None:
    """A stage that hardly gets any gradient, though it is not frozen."""
    stalled = facts.of_kind("stalled")
    columns = stage_columns(facts.rows)
    settled = facts.settled.filter(pl.col("grad_norm") > 0)
    low: dict[str, float] = {}
    if settled.height >= MIN_SETTLED_STEPS and columns:
        ratios = settled.select((pl.col(name) / pl.col("grad_norm")).fill_nan(None).median() for name in columns)
        # Exactly nothing, from the first step to the last, is a stage that was frozen.
        low = {name: v for name, v in ratios.row(0, named=True).items() if v is not None and 0 < v < VANISHES}
    if not low and not stalled:
        return None
    if low:
        name, ratio = min(low.items(), key=lambda item: item[1])
        evidence = f"{name.removeprefix(STAGE)} had {ratio:.1g} of the model's gradient norm in half of the steps."
    else:
        evidence = f"In epoch {stalled[0].epoch} the gradients of {', '.join(stalled[0].stages)} vanished."
    adaptive = facts.run.optimizer in SCALE_FREE
    return Advice(
        rule="stage_vanishes",
        title="Check the layers: one stage hardly learns."
        if adaptive
        else "Use an optimizer that scales the step of each parameter.",
        evidence=f"{evidence} The heat map in the report shows at which layer this starts.",
        arguments="" if adaptive else "optimizer=AdamW",
        command=f"gradsafe probe model={facts.run.model or 'MODEL'} data={facts.arguments.get('data') or 'DATA.yaml'}"
        if adaptive
        else "",
    )
