"""Tries what the measurements suggest beside what the user has: first a learning rate, then a clip value on top."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from yolo_gradsafe.probe.advice import clip_to_try, lr_to_try
from yolo_gradsafe.probe.norms import distribution
from yolo_gradsafe.probe.parts import Arm, LrRange, Norms, Setup, Trial
from yolo_gradsafe.probe.steps import STOCK_MAX_NORM, Trainable
from yolo_gradsafe.probe.trial import SHORT, Plan, compare, tells_of_higher_rates, train_arm

__all__ = ["Progress", "verify"]


class Progress(Protocol):
    """What the user sees of the experiment."""

    def tick(self) -> None:
        """Count a batch."""
        ...

    def now(self, what: str) -> None:
        """Say what goes on."""
        ...

    def expect(self, batches: int) -> None:
        """Take in that so many batches are to come."""
        ...


def verify(
    trainer: Trainable,
    setup: Setup,
    lr_range: LrRange,
    plans: Callable[[int], Plan | None],
    progress: Progress,
    look: Callable[[], None],
) -> tuple[Trial | None, Norms]:
    """Train with the user's settings, then with the suggested learning rate, then with the suggested clip value.

    Args:
        trainer: What is trained.
        setup: What the user has.
        lr_range: The range test, which suggests a learning rate.
        plans: How long the trainings are, by the number of arms; None where there is no time for them.
        progress: What the user sees.
        look: Called once, on trained weights that are finite.

    Returns:
        The trial, None without time for one; and the gradient norms with the best settings.
    """
    arms = _Arms(trainer, setup.seed, progress, look)
    lr, plan = _what_to_try(setup, lr_range, plans)
    if plan is None:
        progress.expect(SHORT.batches * SHORT.steps)
        return None, arms.train(setup.lr0, STOCK_MAX_NORM, SHORT)[1]
    progress.expect(plan.seeds * plan.steps * plan.batches * (2 if lr is None else 3))
    yours, norms = arms.train(setup.lr0, STOCK_MAX_NORM, plan)
    best, other, against_yours = yours, None, None
    if lr is not None:
        other, its_norms = arms.train(lr, STOCK_MAX_NORM, plan)
        against_yours = compare(yours.final, other.final)
        if against_yours.verdict == "better":
            best, norms = other, its_norms
    clipped, against_stock = None, None
    limit = clip_to_try(setup.optimizer, norms)
    if limit is not None and plan.batches == setup.accumulate:
        clipped, its_norms = arms.train(best.lr0, limit, plan)
        against_stock = compare(best.final, clipped.final)
        if against_stock.verdict == "better":
            norms = its_norms
    trial = Trial(
        steps=plan.steps,
        batches=plan.batches,
        at=plan.looks,
        yours=yours,
        lr0=other,
        lr0_against_yours=against_yours,
        max_norm=clipped,
        max_norm_against_stock=against_stock,
    )
    return trial, norms


def _what_to_try(
    setup: Setup, lr_range: LrRange, plans: Callable[[int], Plan | None]
) -> tuple[float | None, Plan | None]:
    """Return the learning rate to try beside the user's, if any, and how long the trainings are."""
    lr = lr_to_try(lr_range, setup.lr0)
    if lr is None:
        return None, plans(2)
    plan = plans(3)
    if plan and lr > setup.lr0 and not tells_of_higher_rates(plan, setup.steps):
        return None, plans(2)
    return lr, plan


class _Arms:
    """Trains arm after arm."""

    def __init__(self, trainer: Trainable, seed: int, progress: Progress, look: Callable[[], None]) -> None:
        self._trainer = trainer
        self._seed = seed
        self._progress = progress
        self._look: Callable[[], None] | None = look

    def train(self, lr0: float, max_norm: float, plan: Plan) -> tuple[Arm, Norms]:
        """Train an arm, and describe its gradient norms; look at the model where it is the first that lives."""
        self._progress.now(f"trying lr0={lr0:g}, max_norm={max_norm:g}")
        arm, steps = train_arm(self._trainer, lr0, max_norm, plan, self._seed, self._progress.tick)
        if self._look and math.isfinite(arm.final[-1]):
            self._look()
            self._look = None
        return arm, distribution(steps, lr0, plan.batches)
