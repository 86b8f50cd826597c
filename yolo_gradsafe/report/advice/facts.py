"""What the rules of advice know: the records of a run, and a few numbers that several rules need."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from yolo_gradsafe.judge.learning import UNKNOWN, Learning
from yolo_gradsafe.report.parts import IncidentEntry, Run
from yolo_gradsafe.telemetry.schema import Finding, Shortfall, Verdict

__all__ = [
    "MIN_SETTLED_STEPS",
    "OWN",
    "SCALE_FREE",
    "UNPROVEN",
    "Facts",
    "check_command",
    "number",
    "plural",
    "report_command",
    "rounded",
]

MIN_SETTLED_STEPS = 50
"""Settled steps that a statement on the norms needs at least."""

SCALE_FREE = {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp", "RMSprop"}
"""Optimizers that divide by the gradient's typical size."""

OWN = 1.5
"""Rate in force over lr0 from which on the user's own schedule or callback has set it."""

UNPROVEN = 0.3
"""Factor on a learning rate that was too high where the run does not say by how much."""


@dataclass(frozen=True)
class Facts:
    """The records of one run; nothing here is guessed."""

    rows: pl.DataFrame
    """The steps, as ``records.read_steps`` returns them."""
    layers: pl.DataFrame
    """The layers, as ``records.read_layers`` returns them."""
    incidents: list[IncidentEntry] = field(default_factory=list)
    run: Run = field(default_factory=Run)
    options: dict[str, Any] = field(default_factory=dict)
    """GradSafe's resolved options."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Ultralytics' ``args.yaml``; empty where there is none."""
    quarantined: list[str] = field(default_factory=list)
    """Image files in ``quarantine.txt``."""
    results: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"epoch": pl.Float64}))
    """Ultralytics' ``results.csv``, a row an epoch; empty where there is none."""
    learning: Learning = UNKNOWN
    """Whether the model learned, and why not."""
    healthy: bool = False
    """Whether there was no incident, and no step was skipped."""

    @cached_property
    def warm_up(self) -> int:
        """Steps until the scheduled learning rate was at its highest; 0 where it never fell again or never rose."""
        rates = self.scheduled_lr
        peak = rates.arg_max()
        return peak + 1 if peak and peak < 0.75 * len(rates) else 0

    @cached_property
    def settled(self) -> pl.DataFrame:
        """The steps after the warm-up that were applied with a finite norm."""
        after = self.rows.slice(self.warm_up)
        return after.filter(pl.col("applied") & pl.col("grad_norm").is_finite())

    @cached_property
    def median(self) -> float:
        """Median norm of the settled steps; nan where there are too few."""
        return self.norm_at(0.5)

    @cached_property
    def accumulate(self) -> int:
        """Batches an optimizer step, as the records show it."""
        gaps = self.rows.filter(pl.col("epoch") == pl.col("epoch").shift(1))["batch"].diff().drop_nulls()
        typical = gaps.filter(gaps > 0).median()
        return int(typical) if isinstance(typical, (int, float)) else 1

    @cached_property
    def scheduled_lr(self) -> pl.Series:
        """The learning rate of each step as it would have been without a backoff; 0 where it was not recorded."""
        lowered = pl.col("lr_factor").is_between(0, 1, closed="none")
        planned = pl.when(lowered).then(pl.col("lr") / pl.col("lr_factor")).otherwise(pl.col("lr"))
        return self.rows.select(planned.fill_null(0.0).fill_nan(0.0).alias("lr"))["lr"]

    @cached_property
    def update_ratio(self) -> float:
        """Largest change of the weights in a step over the weights, from all that was recorded; nan when unknown."""
        seen = [i.update_ratio for i in self.incidents if isinstance(i.update_ratio, float)]
        seen += self.rows.filter(pl.col("update_ratio").is_finite())["update_ratio"].to_list()
        by_layer = self.layers.filter(pl.col("update_ratio").is_finite())
        seen += by_layer.group_by("epoch").agg(pl.col("update_ratio").median())["update_ratio"].to_list()
        return max(seen, default=math.nan)

    @property
    def troubled(self) -> bool:
        """Whether anything went wrong; to a healthy run that learns nothing is to be said."""
        spikes = self.rows["verdict"].is_in([str(Verdict.SPIKE), str(Verdict.DIVERGING)]).any()
        return bool(self.incidents) or bool(spikes) or bool(self.rows["skipped"].any())

    @property
    def peak_lr(self) -> float:
        """Highest scheduled learning rate, nan without one."""
        rates = self.scheduled_lr.to_numpy()
        return float(rates.max()) if len(rates) and rates.max() > 0 else math.nan

    def rate_at(self, steps: Sequence[int]) -> float:
        """Return the highest rate that the schedule, or the user's own code, had set in some steps; 0 when unknown."""
        rates = self.scheduled_lr.filter(self.rows["step"].is_in(list(steps))).to_numpy()
        return float(rates.max()) * (1 - 1e-6) if len(rates) else 0.0

    def norm_at(self, share: float) -> float:
        """Return the norm that so large a share of the settled steps had at most; nan where there are too few."""
        norms = self.settled["grad_norm"]
        value = norms.quantile(share, "linear") if len(norms) >= MIN_SETTLED_STEPS else None
        return math.nan if value is None else float(value)

    def of_kind(self, *kinds: str) -> list[IncidentEntry]:
        """Return the incidents of some kinds."""
        return [incident for incident in self.incidents if incident.kind in kinds]

    def because(self, reason: Shortfall) -> Finding | None:
        """Return what was found for a reason not to have learned; None where it is none of them."""
        return next((finding for finding in self.learning.findings if finding.reason is reason), None)

    def clip_option(self, name: str) -> Any:
        """Return an option of clipping; None where it was not recorded."""
        section = self.options.get("clip")
        return section.get(name) if isinstance(section, dict) else None


def check_command(facts: Facts) -> str:
    """Return the command that looks through the run's data."""
    return f"gradsafe check {shlex.quote(str(facts.arguments.get('data') or 'DATA.yaml'))}"


def report_command(facts: Facts) -> str:
    """Return the command that shows the run's incidents, with their pictures."""
    return f"gradsafe report {shlex.quote(str(facts.arguments.get('save_dir') or 'RUN'))} --open"


def rounded(value: float) -> float:
    """Round to two significant digits: a setting, not a measurement."""
    return float(f"{value:.1e}")


def number(value: float) -> str:
    """Write a measured number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" + "s" * (count != 1)
