"""The ladder of remedies: which rung a bad step calls for. A pure function; ``manager.py`` carries it out.

The rungs, in order: skip the step, repair what is poisoned, go back to a trusted snapshot, lower the learning rate,
raise the precision, stop. A rung is climbed only when the one below cannot help or did not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.telemetry.schema import Cause, Verdict

__all__ = ["COOL_DOWN", "Plan", "Situation", "plan"]

COOL_DOWN = 100
"""Steps after a rollback within which another one means that going back alone does not hold."""
_REPAIRS = 3
"""Repairs of the state in a row after which repairing alone does not hold."""


@dataclass(frozen=True)
class Situation:
    """What a bad step is judged by."""

    verdict: Verdict
    cause: Cause = Cause.UNKNOWN
    rising: bool = False
    """Whether losses had been out of their range before."""
    never_good: bool = False
    """Whether no step of the run has been taken yet."""
    skipped: int = 1
    """Steps skipped in a row, this one included."""
    repaired: int = 0
    """Steps in a row before this one after which the state was repaired."""
    rollbacks: int = 0
    """Rollbacks so far."""
    since_rollback: int | None = None
    """Steps since the last one."""
    snapshot: bool = True
    """Whether there is a snapshot to go back to."""


@dataclass(frozen=True)
class Plan:
    """What to do beside skipping the step."""

    repair: bool = False
    rollback: bool = False
    lower_lr: bool = False
    """Lower the learning rate after the rollback, where the movement of the weights shows that it is too high."""
    repeated: bool = False
    """Lower it whatever the movement says: the last rollback is a few steps old, and did not hold."""
    limit_lr: bool = False
    """Lower the learning rate to what moves the weights as far as it should."""
    raise_precision: bool = False
    """Count the step against the precision, which rises after a few."""
    stop: str = ""
    """Option whose budget is spent, so that training has to end; empty: it goes on."""
    count: int = 0
    """What was counted against it."""


def plan(situation: Situation, options: RecoveryOptions) -> Plan:
    """Choose the rungs for a step that is diverging, poisoned or a bad batch."""
    verdict, repeated = situation.verdict, _soon_after(situation)
    if situation.skipped > options.max_skips:
        return Plan(repair=True, stop="max_skips", count=situation.skipped)
    if _hopeless(situation, options):
        return Plan(stop="hopeless_after", count=situation.skipped)
    if verdict is Verdict.POISONED and situation.repaired < _REPAIRS:
        return Plan(repair=True)
    too_fast = situation.cause is Cause.LEARNING_RATE
    back = verdict is not Verdict.BAD_BATCH or situation.cause is Cause.WEIGHTS
    if not back:
        return Plan(raise_precision=situation.cause is Cause.PRECISION)
    lower = not too_fast and (verdict is Verdict.DIVERGING or situation.rising or repeated)
    if situation.rollbacks >= options.max_rollbacks:
        return Plan(rollback=situation.snapshot, stop="max_rollbacks", count=situation.rollbacks)
    return Plan(
        rollback=situation.snapshot,
        lower_lr=lower,
        repeated=repeated and not too_fast,
        limit_lr=too_fast,
    )


def _hopeless(situation: Situation, options: RecoveryOptions) -> bool:
    """Whether batches have failed one after the other since the first step, whatever was tried."""
    tried = situation.cause not in (Cause.PRECISION, Cause.TRANSIENT, Cause.UNKNOWN)
    failed = situation.verdict is Verdict.BAD_BATCH and situation.never_good
    return failed and tried and 0 < options.hopeless_after <= situation.skipped


def _soon_after(situation: Situation) -> bool:
    return situation.since_rollback is not None and situation.since_rollback < COOL_DOWN
