"""What came of each incident: what it cost, whether the remedy held, what stock would have done, what to change."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from yolo_gradsafe.report.advice.facts import Facts
from yolo_gradsafe.report.incident_groups import IncidentGroup, incident_groups
from yolo_gradsafe.report.parts import Advice, Outcome, Run
from yolo_gradsafe.report.tally import taken_back
from yolo_gradsafe.telemetry.schema import Cause, Held, Kind, Place, Stock, Verdict

__all__ = ["outcomes", "stock"]

MIN_HEALTHY_STEPS = 10
"""Healthy steps after which a remedy has held; those that a rollback took back are none."""
HEALTHY = [str(Verdict.OK), str(Verdict.CLIPPED)]
OF_IMAGES = (Cause.IMAGE, Cause.LABEL)
"""Causes that are the fault of one image, and say nothing of the next one."""
RULES: dict[str, tuple[str, ...]] = {
    Cause.IMAGE: ("quarantined", "broken_images"),
    Cause.LABEL: ("quarantined", "broken_images"),
    Cause.PRECISION: ("amp_overflow",),
    Cause.LEARNING_RATE: ("lr_too_high", "warm_up_short", "muon", "rate_too_high"),
    Cause.WEIGHTS: ("lr_too_high", "warm_up_short", "muon", "rate_too_high"),
}
"""The rules of advice that say what to change, by cause."""


def outcomes(facts: Facts, advice: Sequence[Advice]) -> list[Outcome]:
    """Return what came of each group of incidents, in their order.

    Args:
        facts: The records of the run.
        advice: What the run as a whole is advised.
    """
    groups = incident_groups(facts.incidents)
    kept = pl.col("applied") & ~taken_back(facts.incidents)
    healthy = facts.rows.filter(kept & pl.col("verdict").is_in(HEALTHY))["step"]
    found = []
    for number, group in enumerate(groups):
        main = group.main
        again = next((later.main.step for later in groups[number + 1 :] if _same(group, later)), None)
        since = healthy.filter(healthy > main.step)
        count = len(since if again is None else since.filter(since < again))
        held = Held.CONFIRMED if count >= MIN_HEALTHY_STEPS else Held.OPEN if again is None else Held.AGAIN
        change = _change(group, advice)
        found.append(
            Outcome(
                epoch=main.epoch,
                step=main.step,
                steps_lost=sum(entry.steps_lost for entry in group.everything),
                healthy_since=count,
                held=held.value,
                stock=stock(group, facts.run).value,
                options=change.options if change else "",
                arguments=change.arguments if change else "",
                command=change.command if change else "",
            )
        )
    return found


def stock(group: IncidentGroup, run: Run) -> Stock:
    """Return what Ultralytics' own trainer does in such a case; ``unknown`` where its code does not tell."""
    main = group.main
    if main.kind in (Kind.BAD_BATCH, Kind.ISOLATED):
        return Stock.UNKNOWN if main.place == Place.OPEN_WINDOW else _bad_step(group, run)
    if Place.BATCHNORM in (main.place, *(entry.place for entry in group.remedies)):
        return Stock.KEPT_STATISTICS
    return _FATES.get(main.kind, Stock.UNKNOWN)


_FATES: dict[str, Stock] = {
    Kind.POISONED: Stock.KEPT_STATE,
    Kind.HEALED: Stock.KEPT_STATE,
    Kind.DIVERGING: Stock.WENT_ON,
    Kind.ROLLBACK: Stock.WENT_ON,
    Kind.LR_BACKOFF: Stock.WENT_ON,
    Kind.BATCHNORM_LAG: Stock.KEPT_STATISTICS,
    Kind.NORM_OVERFLOW: Stock.ZERO_GRADIENTS,
}


def _bad_step(group: IncidentGroup, run: Run) -> Stock:
    """A loss or a gradient that is not finite. GradScaler, which fp16 goes with, looks at it; nothing else does."""
    if run.amp == "fp16":
        # These pass through the first layer, so that the statistics behind it take them in.
        return Stock.SKIPPED_NAN_STATISTICS if group.cause in (Cause.IMAGE, Cause.PREPROCESSING) else Stock.SKIPPED
    if run.amp not in ("fp32", "bf16"):
        return Stock.UNKNOWN
    return Stock.NAN_WEIGHTS_FIRST_EPOCH if group.main.epoch <= 1 else Stock.NAN_WEIGHTS


def _same(group: IncidentGroup, later: IncidentGroup) -> bool:
    """Whether a remedy that had helped would have prevented a later incident."""
    if group.main.kind != later.main.kind or group.cause != later.cause:
        return False
    return group.cause not in OF_IMAGES or bool(set(group.images) & set(later.images))


def _change(group: IncidentGroup, advice: Sequence[Advice]) -> Advice | None:
    rules = RULES.get(group.cause, ())
    if not rules and group.lowered_rate:
        rules = RULES[Cause.LEARNING_RATE]
    return next((one for one in advice if one.rule in rules), None)
