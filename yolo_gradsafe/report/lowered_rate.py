"""Which learning rate was too high, and what it was lowered to."""

from __future__ import annotations

import math

from yolo_gradsafe.report.advice.facts import OWN, Facts
from yolo_gradsafe.report.incident_groups import incident_groups
from yolo_gradsafe.report.parts import LoweredRate
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["lowered_rate"]


def lowered_rate(facts: Facts) -> LoweredRate | None:
    """Return the learning rate that was lowered; None where it was not, or where it is not known."""
    found = [entry for group in incident_groups(facts.incidents) if (entry := group.lowered_rate)]
    if not found:
        return None
    last = found[-1]
    before, is_lr0 = _before(facts, [entry.step for entry in found])
    if not math.isfinite(before):
        return None
    return LoweredRate(
        epoch=last.epoch,
        step=last.step,
        before=before,
        after=(before if is_lr0 else _before(facts, [last.step])[0]) * last.lr_factor,
        is_lr0=is_lr0,
        moved_too_far=all(entry.cause == Cause.LEARNING_RATE for entry in found),
        times=len(found),
    )


def _before(facts: Facts, steps: list[int]) -> tuple[float, bool]:
    """Return the highest rate that was asked for at some steps, and whether that is the user's lr0."""
    in_force, lr0 = facts.rate_at(steps), facts.arguments.get("lr0")
    if isinstance(lr0, (int, float)) and lr0 > 0 and facts.arguments.get("optimizer") != "auto":
        return (in_force, False) if in_force > OWN * lr0 else (float(lr0), True)
    return facts.peak_lr, False
