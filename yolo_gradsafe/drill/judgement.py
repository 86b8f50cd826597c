"""Whether a guarded training came to what was promised. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yolo_gradsafe.drill.outcome import Outcome
from yolo_gradsafe.drill.scenario import Promise

__all__ = ["Clean", "Judgement", "judge", "limit"]


@dataclass(frozen=True)
class Clean:
    """The clean trainings of a case, a seed each; the first has the seed of the faulty ones."""

    outcomes: Sequence[Outcome]

    @property
    def first(self) -> Outcome:
        """The one with the seed of the faulty trainings."""
        return self.outcomes[0]

    @property
    def accuracies(self) -> list[float]:
        """MAP50 of each that has one."""
        return [outcome.map50 for outcome in self.outcomes if outcome.map50 is not None]

    @property
    def median(self) -> float:
        """Median mAP50, 0 to 1; 0 where nothing was validated."""
        return statistics.median(self.accuracies) if self.accuracies else 0.0

    @property
    def spread(self) -> float:
        """Largest mAP50 less the smallest."""
        return max(self.accuracies) - min(self.accuracies) if self.accuracies else 0.0


@dataclass(frozen=True)
class Judgement:
    """What is said of a training."""

    passed: bool
    reasons: tuple[str, ...]
    """What was promised and did not come; empty when it passed."""


def judge(promise: Promise, injected: bool, outcome: Outcome, clean: Clean, learns: bool) -> Judgement:
    """Compare a guarded training with what was promised.

    Args:
        promise: What it must come to.
        injected: Whether a fault was to be injected, which must then have struck.
        outcome: What it came to.
        clean: The clean trainings of the same case.
        learns: Whether they are long enough for an accuracy that means something.
    """
    reasons = tuple(_broken(promise, injected, outcome, clean, learns))
    return Judgement(not reasons, reasons)


def limit(promise: Promise, clean: Clean) -> float:
    """Return the lowest mAP50 that passes: the promised share of the clean median, or its spread where that is more."""
    return clean.median - max(promise.tolerance * clean.median, clean.spread)


def _broken(promise: Promise, injected: bool, outcome: Outcome, clean: Clean, learns: bool) -> Iterator[str]:
    if clean.first.error:
        yield f"the clean training failed: {clean.first.error}"
    if outcome.error:
        yield f"died: {outcome.error}"
    if injected and not outcome.fired:
        yield "the fault did not strike"
    if not outcome.not_finite:
        yield "nothing was trained"
    for part in promise.finite:
        count = outcome.not_finite.get(part, 0)
        if count < 0:
            yield f"{part} does not load"
        elif count:
            yield f"tensors of {part} not finite: {count}"
    if outcome.spoiled_saves:
        yield f"checkpoints filled with zeros or clamped: {outcome.spoiled_saves}"
    if outcome.nan_rows:
        yield f"NaN rows in results.csv: {outcome.nan_rows}"
    if outcome.epochs_redone:
        yield f"epochs redone: {outcome.epochs_redone}"
    if errors := outcome.incidents.get("internal_error", 0):
        yield f"errors inside the guard: {errors}"
    if outcome.rollbacks > promise.rollbacks:
        yield f"rollbacks: {outcome.rollbacks}, at most {promise.rollbacks}"
    lost, allowed = outcome.lost_to(clean.first), promise.steps + promise.steps_a_strike * outcome.fired
    if lost > allowed:
        yield f"steps lost: {lost}, at most {allowed}"
    if learns and (outcome.map50 or 0.0) < (least := limit(promise, clean)):
        yield f"mAP50 {outcome.map50 or 0.0:.3f}, at least {least:.3f}"
