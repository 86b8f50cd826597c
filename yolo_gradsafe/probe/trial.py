"""Is a suggestion better than what the user has? Short trainings side by side, before anything is recommended.

Each arm trains from the same weights on the same batches, with the whole shape of a training: the learning rate rises,
then falls to a tenth. What counts is the loss of images that are not trained on, at the end, and by how much that
differs between seeds.

A short training favours what is fast at once (Wu et al. 2018, arXiv 1803.02021), so a higher rate than the user's is
only tried where the trial is not much shorter than the training itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yolo_gradsafe.probe.parts import Arm, Comparison, Course, Verdict
from yolo_gradsafe.probe.steps import Step, Trainable, train_step

__all__ = ["SEEDS", "SHORT", "Plan", "compare", "make_plan", "schedule", "tells_of_higher_rates", "train_arm"]

SEEDS = 2
"""Trainings of each arm; their difference is the spread."""
IMAGES = 32
"""Fewest images of the held-out loss."""
LOOKS = 5
"""Times that an arm's held-out loss is taken."""
_FEWEST, _ENOUGH, _MOST = 12, 24, 100
"""Steps of a training: below the first it says nothing; from the second on, steps have several batches."""
_FORWARD = 1 / 3
"""Time of a forward pass, as a share of a training step's."""
_FLOOR = 0.01
"""Least spread, as a share of the loss: two seeds may agree by chance."""
_HORIZON = 4
"""A trial tells of trainings at most so many times as long whether they gain from a higher rate."""


@dataclass(frozen=True)
class Plan:
    """How long each training of the trial is."""

    steps: int
    """Optimizer steps."""
    batches: int
    """Batches a step."""
    seeds: int = SEEDS
    """Trainings of each arm."""

    @property
    def looks(self) -> list[int]:
        """Steps after which the held-out loss is taken."""
        return sorted({max(1, round(self.steps * (i + 1) / LOOKS)) for i in range(LOOKS)})


SHORT = Plan(steps=_FEWEST, batches=1, seeds=1)
"""For the gradient norms alone, where there is no time to compare anything."""


def make_plan(seconds: float, batch_seconds: float, batch: int, accumulate: int, arms: int) -> Plan | None:
    """Fit a trial into the time there is.

    Args:
        seconds: Time for all of it.
        batch_seconds: Time to train on one batch.
        batch: Images a batch.
        accumulate: Batches a step of the user's training; fewer are taken where time is short.
        arms: Settings that are compared.

    Returns:
        None where there is too little time to tell anything.
    """
    looks = LOOKS * math.ceil(IMAGES / batch) * _FORWARD
    affordable = math.floor(seconds / (arms * SEEDS * batch_seconds) - looks)
    if affordable < _FEWEST:
        return None
    batches = max(1, min(accumulate, affordable // _ENOUGH))
    return Plan(steps=min(_MOST, affordable // batches), batches=batches)


def tells_of_higher_rates(plan: Plan, planned_steps: int) -> bool:
    """Whether a trial is long enough, beside the training itself, to recommend a higher learning rate."""
    return plan.steps * _HORIZON >= planned_steps


def schedule(step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, as a share of the largest."""
    warm = max(1, steps // 5)
    return min(1.0, (step + 1) / warm) * (1 - 0.9 * max(0, step - warm) / max(1, steps - warm))


def train_arm(
    trainer: Trainable, lr0: float, max_norm: float, plan: Plan, seed: int, tick: Callable[[], None]
) -> tuple[Arm, list[Step]]:
    """Train with some settings, once a seed, from the initial weights.

    Args:
        trainer: What is trained.
        lr0: Largest learning rate.
        max_norm: Norm to clip at.
        plan: How long.
        seed: The first seed.
        tick: Called once a batch, also for those that a breakdown made needless.

    Returns:
        What came of it, and the steps of the first training.
    """
    courses: list[Course] = []
    first: list[Step] = []
    for number in range(plan.seeds):
        course, steps = _train(trainer, lr0, max_norm, plan, seed + number, tick)
        courses.append(course)
        first = first or steps
    return Arm(lr0=lr0, max_norm=max_norm, courses=courses), first


def compare(base: Sequence[float], candidate: Sequence[float]) -> Comparison:
    """Decide between two arms.

    Args:
        base: Final held-out loss by seed, at least two; not finite where training died.
        candidate: The same of the suggestion, with the same seeds.
    """
    died = [not all(map(math.isfinite, losses)) for losses in (base, candidate)]
    if any(died):
        verdict: Verdict = "both_died" if all(died) else "better" if died[0] else "worse"
        return Comparison(verdict=verdict, base=_mean(base), candidate=_mean(candidate), spread=None)
    before, after = statistics.mean(base), statistics.mean(candidate)
    spread = max(_FLOOR * abs(before), *(max(losses) - min(losses) for losses in (base, candidate)))
    verdict = "better" if before - after > spread else "worse" if after - before > spread else "same"
    return Comparison(verdict=verdict, base=before, candidate=after, spread=spread)


def _mean(losses: Sequence[float]) -> float | None:
    return statistics.mean(losses) if all(map(math.isfinite, losses)) else None


def _train(
    trainer: Trainable, lr0: float, max_norm: float, plan: Plan, seed: int, tick: Callable[[], None]
) -> tuple[Course, list[Step]]:
    trainer.reset(seed)
    steps: list[Step] = []
    held_out: list[float] = []
    for i in range(plan.steps):
        if not steps or steps[-1].finite:
            steps.append(train_step(trainer, lr0 * schedule(i, plan.steps), plan.batches, max_norm))
        if i + 1 in plan.looks:
            held_out.append(trainer.held_out_loss(IMAGES) if steps[-1].finite else math.nan)
        for _ in range(plan.batches):
            tick()
    return Course(seed=seed, loss=[step.loss for step in steps], held_out=list(held_out)), steps
