"""What the schedule changed: the end of mosaic augmentation."""

from __future__ import annotations

import polars as pl

from yolo_gradsafe.report.advice.facts import MIN_SETTLED_STEPS, Facts, number, plural
from yolo_gradsafe.report.parts import Advice

__all__ = ["close_mosaic"]

TIMES = 5
"""Norm over the one that 99 % of the steps in the epochs before stayed under, from which on it is a spike."""
FEWEST = 3
EPOCHS = 2
"""Epochs after the change that are looked at; and five times as many before."""


def close_mosaic(facts: Facts) -> Advice | None:
    """Spikes right where Ultralytics switched mosaic off, a few epochs before the end."""
    last, close = facts.arguments.get("epochs"), facts.arguments.get("close_mosaic")
    if not isinstance(last, int) or not isinstance(close, int) or not 0 < close < last or facts.arguments.get("cos_lr"):
        return None
    first = last - close + 1
    epoch = pl.col("epoch")
    usable = facts.rows.filter(pl.col("grad_norm").is_finite() | pl.col("skipped"))
    before = usable.filter((epoch < first) & (epoch >= first - 5 * EPOCHS))
    after = usable.filter((epoch >= first) & (epoch < first + EPOCHS))
    usual = before.filter("applied")["grad_norm"].quantile(0.99)
    if before.height < MIN_SETTLED_STEPS or after.is_empty() or not usual:
        return None
    over = (pl.col("grad_norm") > TIMES * usual) | pl.col("verdict").is_in(["spike", "diverging"]) | pl.col("skipped")
    spikes, earlier = after.filter(over), before.filter(over)
    if spikes.height < FEWEST or spikes.height / after.height < 5 * earlier.height / before.height:
        return None
    largest = spikes.filter(pl.col("grad_norm").is_finite())["grad_norm"].max()
    size = f", up to a norm of {number(float(largest))}" if isinstance(largest, (int, float)) else ""
    return Advice(
        rule="close_mosaic",
        title="Use a lower learning rate when mosaic is switched off.",
        evidence=f"{plural(spikes.height, 'spike')} in the {EPOCHS} epochs from epoch {first} on, when mosaic was "
        f"switched off{size}; in the epochs before, 99 % of the steps stayed under {number(float(usual))}. With a "
        "cosine schedule the learning rate is lower by then.",
        arguments="cos_lr=True",
    )
