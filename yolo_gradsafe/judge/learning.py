"""Did the model learn? A pure function of what a run recorded, epoch by epoch.

Accuracy has the last word: a model whose accuracy rose has learned, whatever else looks odd. The rest says why it
did not rise, and stands in for it where there was no validation. When in doubt the answer is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from yolo_gradsafe.telemetry.schema import Finding, Learned, Shortfall

__all__ = [
    "COLLAPSE",
    "FEWEST_EPOCHS",
    "NOTHING",
    "UNKNOWN",
    "Branch",
    "Course",
    "EpochScore",
    "Learning",
    "judge_learning",
]

FEWEST_EPOCHS = 5
"""Epochs before which accuracy that has not risen says nothing."""
FEWEST_SHARE = 0.2
"""The same for a run that still goes on: share of its epochs."""
NOTHING = 0.01
"""Fitness (mAP50-95) of a model that finds nothing: matches by chance have less."""
STIR = 0.001
"""Fitness that a model must reach to be said to grow."""
GOOD = 0.05
"""Fitness after the first epoch of a model that could do it before."""
RISE = 0.02
"""Rise over the first epoch, relative to it, that is more than noise."""
KEPT = 0.9
"""Share of its fitness after the first epoch that a model that was good from the start keeps."""
COLLAPSE = 0.1
"""Share of its best fitness that a model that has not collapsed keeps."""
FEWEST_STEPS = 50
"""Optimizer steps that the smallest set takes."""
ENOUGH_STEPS = 20
"""Steps after which what was so in all of them is no accident."""
MOVED = 0.01
"""Share of their size that all steps together move the weights by at least, where anything can be learnt."""
SILENT = 2e-4
"""Share of the gradient norm that a branch that learns has at least; 0.002 is the least of a healthy one."""
ABSURD, TIMES = 1e3, 100.0
"""A validation loss that no working model has: so large, and so many times the training loss. Usual is below 20."""
RATE = {True: 0.02, False: 0.3}
"""Learning rate that is too high for any model: of an optimizer that divides by the gradient's size, and of others."""
UPDATE = 0.1
"""Change of a layer's weights in a step over the weights themselves; 0.02 is the most of a healthy training."""
SAME = 1e-3
"""Spread of a loss over its size that no training model is below for several epochs."""
FALL = 0.95
"""Share of the early loss that the late one of a training model is below."""
FIT = 0.5
"""The same of a model that knows its training set."""


@dataclass(frozen=True)
class EpochScore:
    """One epoch as Ultralytics scored it."""

    epoch: int
    """Epoch, from 1."""
    fitness: float = math.nan
    """What Ultralytics chooses the best epoch by; nan where the epoch was not validated."""
    train: Mapping[str, float] = field(default_factory=dict)
    """Loss items of the training, by name."""
    validation: Mapping[str, float] = field(default_factory=dict)
    """Loss items of the validation, by the same names; empty where the epoch was not validated."""

    @property
    def validated(self) -> bool:
        """Whether there was a validation."""
        return math.isfinite(self.fitness)


@dataclass(frozen=True)
class Branch:
    """The share of a branch of the model in the gradient norm."""

    name: str
    first: float
    """In the first step; nan where the branch had no gradient because it is frozen."""
    high: float
    """In nearly all steps it was at most this."""


@dataclass(frozen=True)
class Course:
    """What a run recorded of its learning. What is not known keeps its default."""

    epochs: Sequence[EpochScore] = ()
    planned: int = 0
    """Epochs asked for."""
    ended: bool = True
    """Whether the run is over."""
    steps: int = 0
    """Optimizer steps that were taken."""
    skipped: int = 0
    """Optimizer steps that were skipped."""
    batches: int = 0
    """Batches that were trained on."""
    warmup_batches: int = 0
    objects: int = -1
    """Labelled objects of the training set; -1 when unknown."""
    validation_objects: int = -1
    items: Mapping[str, float] = field(default_factory=dict)
    """Largest magnitude of each loss item over all steps; those that the user switched off left out."""
    branches: Sequence[Branch] = ()
    dead_layers: Sequence[str] = ()
    """Layers that had a gradient, and none at all in the last epochs."""
    last_alive: int = 0
    """Last epoch in which one of these had a gradient."""
    lr: float = math.nan
    """Highest learning rate of the schedule."""
    lr0: float = math.nan
    """The rate as the user set it; nan where the trainer chose it."""
    ran_away: bool = False
    """Whether losses have left their range, so that training was rolled back."""
    rate_lowered: bool = False
    """Whether the guard had to lower the rate, also where that was in time."""
    scale_free: bool = False
    """Whether the optimizer divides by the gradient's size, as Adam does."""
    update_ratio: float = math.nan
    """Largest change of the weights in a step over the weights; nan when unknown."""
    from_scratch: bool = False
    """Whether the weights began at random."""


@dataclass(frozen=True)
class Learning:
    """Whether the model learned, and why not or why that is unknown, the most telling reason first."""

    learned: Learned
    findings: tuple[Finding, ...] = ()


UNKNOWN = Learning(Learned.UNKNOWN)
"""Where nothing was looked at."""


def judge_learning(course: Course) -> Learning:
    """Say whether the model of a run learned.

    Returns:
        ``yes``, without findings, where accuracy rose and was kept. ``no`` where it did not in enough epochs, or where
        something shows that it cannot; the findings say why. ``unknown`` for short runs, for runs without a validation,
        and for a model that was good from the start; the one finding says which.
    """
    if _rose(course):
        fallen = _collapsed(course)
        if fallen is None:
            return Learning(Learned.YES)
        # A model whose accuracy rose did not predict the same for every image, whatever the training loss was.
        causes = [finding for finding in _causes(course) if "training" not in finding.names]
        return Learning(Learned.NO, (*causes, fallen))
    unclear = _unclear(course)
    if unclear is None:
        return Learning(Learned.NO, (*_causes(course), _fell(course) or _never_rose(course)))
    if unclear.reason is Shortfall.GOOD_FROM_THE_START:
        return Learning(Learned.UNKNOWN, (unclear,))
    proofs = [finding for finding in _causes(course) if finding.reason in _PROOFS]
    return Learning(Learned.NO, tuple(proofs)) if proofs else Learning(Learned.UNKNOWN, (unclear,))


# Accuracy -------------------------------------------------------------------------------------------------------------


def _validated(course: Course) -> list[EpochScore]:
    if course.validation_objects == 0:  # then every fitness is 0
        return []
    return [epoch for epoch in course.epochs if epoch.validated]


def _rose(course: Course) -> bool:
    """Whether accuracy was ever clearly above that of the first epoch, or above nothing where weights were random."""
    scores = [epoch.fitness for epoch in _validated(course)]
    if not scores or max(scores) < NOTHING:
        return False
    if course.from_scratch and (len(scores) == 1 or scores[0] >= GOOD):
        return True
    return max(scores[1:], default=0.0) > scores[0] * (1 + RISE)


def _collapsed(course: Course) -> Finding | None:
    """Accuracy that rose, and was next to nothing in the last two epochs."""
    found = _validated(course)
    best, last = max(found, key=lambda epoch: epoch.fitness), found[-2:]
    if best.fitness < GOOD or best in last or max(epoch.fitness for epoch in last) > COLLAPSE * best.fitness:
        return None
    return Finding(Shortfall.COLLAPSED, value=last[-1].fitness, limit=best.fitness, epoch=best.epoch)


def _unclear(course: Course) -> Finding | None:
    """Return why accuracy that did not rise says nothing; None where it says that the model did not learn."""
    found = _validated(course)
    if not found:
        return Finding(Shortfall.NOT_VALIDATED, value=course.validation_objects)
    first, last, end = found[0].fitness, found[-1].fitness, found[-1].epoch
    if len(found) > 1 and first >= GOOD and _kept(found):
        return Finding(Shortfall.GOOD_FROM_THE_START, value=last, limit=first, epoch=found[0].epoch)
    needed = FEWEST_EPOCHS if course.ended else max(FEWEST_EPOCHS, math.ceil(FEWEST_SHARE * course.planned))
    warming_up = not course.ended and course.batches <= course.warmup_batches
    if end < needed or warming_up or (len(found) == 1 and first >= STIR) or _rising(found):
        return Finding(Shortfall.TOO_SHORT, value=end, limit=needed)
    return None


def _kept(found: Sequence[EpochScore]) -> bool:
    """Whether accuracy was as good as after the first epoch in any of the last third: single epochs may be noise."""
    late = found[-max(2, len(found) // 3) :]
    return max(epoch.fitness for epoch in late) >= KEPT * found[0].fitness


def _rising(found: Sequence[EpochScore]) -> bool:
    """Whether accuracy is still small, but grows: its last third is twice its first, and ends near its best."""
    scores = [epoch.fitness for epoch in found]
    third = len(scores) // 3
    if not third or max(scores) < STIR:
        return False
    return sum(scores[-third:]) > 2 * sum(scores[:third]) and max(scores[-third:]) == max(scores)


def _fell(course: Course) -> Finding | None:
    """Accuracy of a model that was good after the first epoch, and less so at the end."""
    found = _validated(course)
    first, last = found[0], found[-1]
    if first.fitness < GOOD:
        return None
    return Finding(Shortfall.FELL, value=last.fitness, limit=first.fitness, epoch=first.epoch)


def _never_rose(course: Course) -> Finding:
    found = _validated(course)
    best = max(epoch.fitness for epoch in found)
    return Finding(Shortfall.NEVER_ROSE, value=best, limit=found[0].fitness, epoch=found[-1].epoch)


# Why it did not rise --------------------------------------------------------------------------------------------------


def _causes(course: Course) -> list[Finding]:
    found = [finding for rule in _RULES if (finding := rule(course))]
    said = {finding.reason for finding in found}
    return [finding for finding in found if not said & _SAYS_MORE.get(finding.reason, set())]


def _rate_too_high(course: Course) -> Finding | None:
    """Training that ran away, steps that moved the weights by a large part of their size, or a rate that must."""
    limit = RATE[course.scale_free]
    proven = course.ran_away or course.rate_lowered or course.update_ratio >= UPDATE
    if not proven and not course.lr >= limit:
        return None
    if course.lr <= course.lr0 * (1 + RISE):
        return Finding(Shortfall.RATE_TOO_HIGH, ("lr0",), course.lr0, limit)
    return Finding(Shortfall.RATE_TOO_HIGH, value=course.lr, limit=limit)


def _rate_too_low(course: Course) -> Finding | None:
    """Steps that leave the weights where they are, even if all of them went in the same direction."""
    if course.steps < ENOUGH_STEPS or not course.steps * course.update_ratio < MOVED:
        return None
    return Finding(Shortfall.RATE_TOO_LOW, value=course.lr, limit=course.update_ratio)


def _steps_skipped(course: Course) -> Finding | None:
    """More steps skipped than taken: that they were too few follows from it."""
    asked = course.steps + course.skipped
    if course.skipped <= asked / 2:
        return None
    return Finding(Shortfall.STEPS_SKIPPED, value=course.skipped, limit=asked)


def _too_few_steps(course: Course) -> Finding | None:
    """Training that ended within its warm-up, or that accumulated most of its batches away."""
    within = course.ended and 0 < course.batches <= course.warmup_batches
    if not within and _steps_in_all(course) >= FEWEST_STEPS:
        return None
    limit = course.warmup_batches if within else FEWEST_STEPS
    names = ("warm-up",) if within else ()
    return Finding(Shortfall.TOO_FEW_STEPS, names, course.steps, limit)


def _steps_in_all(course: Course) -> float:
    """Return the steps that training takes; of one that goes on, with as many in each epoch to come as so far."""
    done = course.epochs[-1].epoch if course.epochs else 0
    to_come = max(course.planned - done, 0) if not course.ended and done else 0
    return course.steps * (1 + to_come / max(done, 1))


def _loss_zero(course: Course) -> Finding | None:
    """Loss items that were exactly 0 from the first step to the last: no object was assigned to a prediction."""
    names = tuple(name for name, largest in course.items.items() if largest == 0)
    if not names or course.objects <= 0 or course.steps < ENOUGH_STEPS:
        return None
    return Finding(Shortfall.LOSS_ZERO, names, 0.0, course.objects)


def _branch_silent(course: Course) -> Finding | None:
    """Branches that had a gradient, so that they are not frozen, and next to none of the norm."""
    silent = [branch for branch in course.branches if branch.first < SILENT and branch.high < SILENT]
    if not silent or course.steps < ENOUGH_STEPS:
        return None
    worst = min(silent, key=lambda branch: branch.high)
    return Finding(Shortfall.BRANCH_SILENT, tuple(branch.name for branch in silent), worst.high, SILENT)


def _layer_died(course: Course) -> Finding | None:
    if not course.dead_layers:
        return None
    return Finding(Shortfall.LAYER_DIED, tuple(course.dead_layers), len(course.dead_layers), epoch=course.last_alive)


def _validation_loss(course: Course) -> Finding | None:
    """Validation losses that the weights which train well do not have: batch-norm statistics or the EMA are off."""
    for epoch in reversed(_validated(course)):
        bad = {name: loss for name, loss in epoch.validation.items() if _impossible(loss, epoch.train.get(name))}
        if not bad:
            return None
        before = [other for other in _validated(course) if other.epoch < epoch.epoch]
        since = next((other.epoch for other in reversed(before) if not _bad_losses(other)), 0) + 1
        worst = max(bad.values(), key=lambda loss: abs(loss) if math.isfinite(loss) else math.inf)
        return Finding(Shortfall.VALIDATION_LOSS, tuple(bad), worst, ABSURD, since)
    return None


def _bad_losses(epoch: EpochScore) -> bool:
    return any(_impossible(loss, epoch.train.get(name)) for name, loss in epoch.validation.items())


def _impossible(loss: float, train: float | None) -> bool:
    """Whether a validation loss cannot be, given the training loss of the same epoch."""
    if train is None or train == 0 or not math.isfinite(train):
        return False
    return loss == 0 or not abs(loss) < max(ABSURD, TIMES * abs(train))


def _constant_predictor(course: Course) -> Finding | None:
    """A validation loss that stands still while training goes on, or a training loss that never fell."""
    total = [sum(epoch.validation.values()) for epoch in _validated(course)]
    half = total[len(total) // 2 :]
    if len(half) >= 3 and half[0] and max(half) - min(half) <= SAME * abs(half[0]):
        return Finding(Shortfall.CONSTANT_PREDICTOR, ("validation",), half[-1], half[0], course.epochs[-1].epoch)
    losses = [sum(epoch.train.values()) for epoch in course.epochs]
    third = len(losses) // 3
    if third < 2 or not all(map(math.isfinite, losses)):
        return None
    early, late = sum(losses[:third]) / third, sum(losses[-third:]) / third
    if late < FALL * early:
        return None
    return Finding(Shortfall.CONSTANT_PREDICTOR, ("training",), late, early, course.epochs[-1].epoch)


def _overfitting(course: Course) -> Finding | None:
    """A training set that is known by heart, and a validation set that was never done better than at the start."""
    found = [epoch for epoch in _validated(course) if epoch.validation]
    if len(found) < FEWEST_EPOCHS:
        return None
    train = [sum(epoch.train.values()) for epoch in found]
    validation = [sum(epoch.validation.values()) for epoch in found]
    apart = train[-1] < FIT * train[0] and validation[0] < min(validation[1:])
    if not apart or not math.isfinite(validation[-1]):
        return None
    return Finding(Shortfall.OVERFITTING, value=validation[-1], limit=validation[0], epoch=found[0].epoch)


_RULES: tuple[Callable[[Course], Finding | None], ...] = (
    _loss_zero,
    _branch_silent,
    _rate_too_high,
    _rate_too_low,
    _steps_skipped,
    _too_few_steps,
    _layer_died,
    _validation_loss,
    _overfitting,
    _constant_predictor,
)
"""The most telling first."""
_SAYS_MORE = {
    Shortfall.RATE_TOO_LOW: {Shortfall.RATE_TOO_HIGH},
    Shortfall.OVERFITTING: {Shortfall.RATE_TOO_HIGH, Shortfall.TOO_FEW_STEPS, Shortfall.VALIDATION_LOSS},
    Shortfall.TOO_FEW_STEPS: {Shortfall.STEPS_SKIPPED},
    Shortfall.CONSTANT_PREDICTOR: {
        Shortfall.RATE_TOO_LOW,
        Shortfall.STEPS_SKIPPED,
        Shortfall.TOO_FEW_STEPS,
        Shortfall.OVERFITTING,
    },
}
"""Reasons that explain another one."""
_PROOFS = {Shortfall.LOSS_ZERO, Shortfall.BRANCH_SILENT, Shortfall.VALIDATION_LOSS, Shortfall.LAYER_DIED}
"""What shows without any accuracy that a model does not learn."""
