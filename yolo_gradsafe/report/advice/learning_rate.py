"""Is the learning rate too high, or reached too soon?"""

from __future__ import annotations

import math

import polars as pl

from yolo_gradsafe.judge.movement import HEALTHY
from yolo_gradsafe.report.advice.facts import OWN, UNPROVEN, Facts, plural, rounded
from yolo_gradsafe.report.health import DIVERGED
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["muon", "too_high", "warm_up"]

STEPS = 3
"""Diverging steps that say so without an incident."""
PROOF = 20
"""Steps at a rate that show that it can be held."""
FALL = 0.5
"""Share to which no schedule falls from one step to the next while it is near its highest: the user's code does."""


def too_high(facts: Facts) -> Advice | None:
    """Training ran away after the warm-up."""
    steps = _runaways(facts)
    if not steps or facts.run.optimizer == "MuSGD" or _only_at_first(facts, steps):
        return None
    return _lower(facts, steps, "lr_too_high", "Lower the learning rate.", _what(facts, steps))


def warm_up(facts: Facts) -> Advice | None:
    """Training ran away while the learning rate was still rising, and never again although the rate came back."""
    steps = _runaways(facts)
    if not steps or not _only_at_first(facts, steps):
        return None
    now = float(facts.arguments["warmup_epochs"])
    longer = max(2 * now, now + 1)
    return Advice(
        rule="warm_up_short",
        title="Warm up for longer.",
        evidence=f"Training diverged {_when(facts, steps)}, always during the warm-up of {now:g} epochs "
        f"({plural(facts.warm_up, 'step')}) and never after it.",
        arguments=f"warmup_epochs={longer:g}",
    )


def muon(facts: Facts) -> Advice | None:
    """MuSGD's Muon part makes steps of the same length whatever the gradient's size: clipping cannot help."""
    steps = _runaways(facts) or [i.step for i in facts.of_kind("spike")]
    if not steps or facts.run.optimizer != "MuSGD" or _only_at_first(facts, steps):
        return None
    why = "The Muon part of MuSGD takes steps of a fixed size: clipping cannot shorten them, a lower learning rate can."
    evidence = f"Training diverged or spiked {_when(facts, steps)}. {why}"
    return _lower(facts, steps, "muon", "Lower the learning rate, not the clip threshold.", evidence)


def _what(facts: Facts, steps: list[int]) -> str:
    """Say what the rate did: to the weights, where they showed it before the loss did."""
    found, when = facts.of_kind(*DIVERGED), _when(facts, steps)
    ratios = [entry.update_ratio for entry in found if isinstance(entry.update_ratio, float)]
    if not ratios or any(entry.cause != Cause.LEARNING_RATE for entry in found):
        return f"Training ran away {when}."
    return f"The weights moved by {max(ratios):.0%} of their size in one step {when}; {100 * HEALTHY:g} % is healthy."


def _lower(facts: Facts, steps: list[int], rule: str, title: str, evidence: str) -> Advice | None:
    factors = facts.rows["lr_factor"].drop_nulls().drop_nans().to_numpy()
    lowered = factors[factors < 1]
    held = float(factors[-1]) if len(lowered) and factors[-1] < 1 else None
    base = facts.arguments.get("lr0")
    auto = facts.arguments.get("optimizer") == "auto"
    if auto or not isinstance(base, (int, float)):
        base = facts.peak_lr
    in_force = facts.rate_at(steps)
    own = in_force > base * OWN
    if in_force > base:
        evidence += f" The learning rate was {in_force:.2g} then, higher than lr0" + (
            ": a schedule or a callback had set it." if own else "."
        )
        base = in_force
    highest = _highest_after(facts, steps)
    changed = len(lowered) > 0 and _dropped(facts, steps) and highest < FALL * base * (held or 1.0)
    if changed:
        evidence += f" Training went on at {highest:.2g} at most."
    elif held:
        evidence += f" Training went on at {held * base:.2g}, which is {held:.2g} of the rate."
    elif len(lowered):
        evidence += f" Training went on at {lowered.min():.2g} of the rate, and later at the full rate again."
    lr0 = rounded(highest if changed else base * (held or UNPROVEN))
    if not (math.isfinite(lr0) and lr0 > 0):
        return None
    named = f"optimizer={facts.run.optimizer} " if auto and facts.run.optimizer else ""
    if named:
        evidence += " optimizer=auto ignores lr0, so also set the optimizer by name."
    if own:  # lr0 would not lower it, and may even be lower than this
        title = "Lower the learning rate that your schedule or callback sets."
        return Advice(rule=rule, title=title, evidence=f"{evidence} Let it set {lr0:g} at most.")
    return Advice(rule=rule, title=title, evidence=evidence, arguments=f"{named}lr0={lr0:g}")


def _dropped(facts: Facts, steps: list[int]) -> bool:
    """Return whether the user's own code lowered the rate at once after training ran away, as on a plateau."""
    rates = facts.scheduled_lr.filter(facts.rows["step"] >= min(steps)).to_numpy()
    before, after = rates[:-1], rates[1:]
    return bool(((before > FALL * facts.peak_lr) & (after < FALL * before)).any())


def _highest_after(facts: Facts, steps: list[int]) -> float:
    """Return the highest rate that steps were taken with since training ran away last, the warm-up behind them.

    Infinite where there were too few steps to tell.
    """
    since = max(max(steps), int(facts.rows["step"][facts.warm_up - 1]) if facts.warm_up else 0)
    rates = facts.rows.filter((pl.col("step") > since) & pl.col("applied"))["lr"].drop_nulls().drop_nans()
    return float(rates.max()) if len(rates) >= PROOF else math.inf  # type: ignore[arg-type]


def _runaways(facts: Facts) -> list[int]:
    """Return the steps at which training is recorded to have run away."""
    found = [incident.step for incident in facts.of_kind(*DIVERGED)]
    if found:
        return found
    rows = facts.rows.filter(pl.col("verdict") == "diverging")["step"].to_list()
    return rows if len(rows) >= STEPS else []


def _only_at_first(facts: Facts, steps: list[int]) -> bool:
    """Return whether training ran away during the warm-up only, and later held at the full rate."""
    if not facts.warm_up or not isinstance(facts.arguments.get("warmup_epochs"), (int, float)):
        return False
    end = int(facts.rows["step"][facts.warm_up - 1])
    held = facts.rows.filter((pl.col("step") > end) & (pl.col("lr_factor") >= 1) & pl.col("applied")).height
    return max(steps) <= end and held >= PROOF


def _when(facts: Facts, steps: list[int]) -> str:
    first = min(steps)
    epochs = facts.rows.filter(pl.col("step") >= first)["epoch"].head(1).to_list()
    where = f"step {first:,}" + (f" (epoch {epochs[0]})" if epochs else "")
    count = len(set(steps))
    return f"at {where}" if count == 1 else f"{count} times, first at {where}"
