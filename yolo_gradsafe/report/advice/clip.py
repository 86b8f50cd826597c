"""Is the clip threshold where the norms are?"""

from __future__ import annotations

import polars as pl

from yolo_gradsafe.report.advice.facts import SCALE_FREE, Facts, number, plural, rounded
from yolo_gradsafe.report.health import DIVERGED
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.telemetry.schema import Learned

__all__ = ["above", "below"]

FAR_BELOW = 20
"""Median norm over the threshold. Stock's 10 with norms around 100 is common, and trains well."""
FAR_ABOVE = 10
"""Threshold over the norm of 99 % of the steps."""
NO_RANGE = 100
"""Norm of 95 % of the steps over the median: norms that grew by such factors have no range to clip at."""
OUTLIER = 10
"""Norm over the median that a threshold far above ought to have limited."""


def below(facts: Facts) -> Advice | None:
    """A threshold far below all norms makes every step equally long, outliers and ordinary ones alike."""
    limit = _fixed_limit(facts)
    if limit is None or not facts.troubled or not facts.median >= FAR_BELOW * limit:
        return None
    # Norms at a rate that is too high, or of a model that does not learn, say nothing of those of one that does.
    if facts.of_kind(*DIVERGED) or facts.learning.learned is Learned.NO:
        return None
    share = facts.settled["clipped"].to_numpy().mean()
    if share < 0.95:
        return None
    p95 = rounded(facts.norm_at(0.95))
    if p95 > NO_RANGE * facts.median:
        return None
    lr0 = facts.peak_lr * limit / facts.median
    keep = "" if facts.run.optimizer in SCALE_FREE else f"lr0={rounded(lr0):g}"
    return Advice(
        rule="clip_below",
        title="Clip at a norm that only outliers reach.",
        evidence=f"{100 * share:.0f} % of the steps after the warm-up were clipped: their median norm was "
        f"{number(facts.median)}, the threshold {limit:g}. {p95:g} would clip 5 % of them."
        + (
            f" With {facts.run.optimizer or 'this optimizer'}, also lower lr0, so that the steps keep their size."
            * bool(keep)
        ),
        options=f"clip: {{max_norm: {p95:g}}}",
        arguments=keep,
    )


def above(facts: Facts) -> Advice | None:
    """A threshold far above the norms lets outliers pass that are many times the usual norm."""
    limit = _fixed_limit(facts)
    if limit is None or not facts.troubled or not limit >= FAR_ABOVE * facts.norm_at(0.99):
        return None
    passed = facts.settled.filter(~pl.col("clipped") & (pl.col("grad_norm") >= OUTLIER * facts.median)).height
    spikes = facts.rows.filter(pl.col("verdict").is_in(["spike", "diverging"])).height
    if not passed + spikes:
        return None
    p95 = rounded(facts.norm_at(0.95))
    return Advice(
        rule="clip_above",
        title="Lower the clip threshold: it lets outliers pass.",
        evidence=f"The threshold of {limit:g} is {limit / facts.norm_at(0.99):.0f} times the norm that 99 % of the "
        f"steps had, and {plural(max(passed, spikes), 'outlier')} passed unclipped. {p95:g} would clip 5 % of "
        "the steps.",
        options=f"clip: {{max_norm: {p95:g}}}",
    )


def _fixed_limit(facts: Facts) -> float | None:
    """Return the threshold where it is one number that a user set; None in every other mode."""
    limit = facts.clip_option("max_norm")
    fixed = facts.clip_option("mode") == "norm" and not facts.clip_option("per_image")
    return float(limit) if fixed and isinstance(limit, (int, float)) else None
