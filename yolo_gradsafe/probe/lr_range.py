"""Which learning rate? The range test: a short training whose learning rate grows exponentially up to 1.

Smith 2015 (arXiv 1506.01186) and 2018 (arXiv 1803.09820): where the loss begins to fall steeply, training begins to
learn; where it rises, the learning rate is too high. The loss tells that late: long before it runs away, steps that
move the weights by several percent of their norm have spoilt the model. So the test looks at both.

Optimizer, groups and momentum are the user's, the gradients are clipped at 10 as stock does, and there is neither
warm-up nor schedule. Each step takes one batch, whatever the accumulation: the gradient is noisier than in training, so
the answer errs on the low side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt

from yolo_gradsafe.judge.movement import SUITABLE, Movement, MovementMonitor
from yolo_gradsafe.probe.parts import LrRange
from yolo_gradsafe.probe.steps import Trainable, train_step

__all__ = ["LOWEST", "find_divergence", "find_edge", "judge_range", "measure_range", "rate_that_moves"]

LOWEST, HIGHEST = 1e-5, 1.0
"""Learning rates of the first and the last step; Ultralytics allows lr0 up to 1."""

WINDOW = 5
"""Steps whose median is looked at, so that one odd batch decides nothing."""
SPIKE, RISE, ABOVE, NORM = 10.0, 4.0, 1.5, 10.0
"""Breakdown: one loss over its typical size, loss over its lowest, loss over its start, norm over its typical size."""
SAFETY = 10.0
"""Where it is not known how far steps move the weights: what a rate that holds for a few steps must be divided by to
hold for a training."""
BELOW_EDGE = 3.0
"""How far a rate that suits stays below one that breaks."""

Array = npt.NDArray[np.float64]


def measure_range(trainer: Trainable, steps: int, seed: int, tick: Callable[[], None]) -> LrRange:
    """Train with a growing learning rate until something breaks, and judge the course.

    Args:
        trainer: What is trained; it starts from its initial weights.
        steps: Optimizer steps from the lowest to the highest learning rate, at least 20.
        seed: Seed of the images' augmentation.
        tick: Called after each step that was planned, also after those that a breakdown made needless.
    """
    trainer.reset(seed)
    lrs: list[float] = []
    losses: list[float] = []
    norms: list[float] = []
    ratios: list[float] = []
    for i in range(steps):
        if find_edge(losses, norms, ratios) is None:
            lrs.append(LOWEST * (HIGHEST / LOWEST) ** (i / (steps - 1)))
            step = train_step(trainer, lrs[-1])
            losses.append(step.loss)
            norms.append(step.norm)
            ratios.append(step.ratio)
        tick()
    return judge_range(lrs, losses, norms, ratios)


def judge_range(
    lrs: Sequence[float], losses: Sequence[float], norms: Sequence[float], ratios: Sequence[float]
) -> LrRange:
    """Find where training breaks down, and which learning rate suits.

    Args:
        lrs: Learning rate of each step, growing by a constant factor.
        losses: Loss of each step.
        norms: Gradient norm of each step.
        ratios: How far each step moved the weights; nan where that is not known.
    """
    broken = find_edge(losses, norms, ratios)
    end = max(1, len(lrs) if broken is None else broken[0])
    course = _smooth(np.asarray(losses[:end], dtype=np.float64))
    diverges = None if broken is None else lrs[broken[0]]
    if any(map(math.isfinite, ratios)):
        suits = min(rate_that_moves(SUITABLE, lrs[:end], ratios[:end]), (diverges or math.inf) / BELOW_EDGE)
    else:
        suits = min((diverges or HIGHEST) / SAFETY, _rate_that_learns(lrs, course))
    return LrRange(
        lr=list(lrs),
        loss=list(losses),
        norm=list(norms),
        ratio=list(ratios),
        smoothed=course.tolist() if np.isfinite(course).all() else [],
        lr_diverges=diverges,
        diverges_by="" if broken is None else broken[1],
        lr_suggested=suits,
    )


def find_edge(losses: Sequence[float], norms: Sequence[float], ratios: Sequence[float]) -> tuple[int, str] | None:
    """Return the first step that is too much, and why: steps move the weights too far, or the loss runs away.

    The first few steps do not count: an optimizer that has seen no gradients yet moves the weights further.
    """
    broken = find_divergence(losses, norms)
    monitor = MovementMonitor()
    for i, ratio in enumerate(ratios[: broken[0] if broken else None]):
        if i >= WINDOW and monitor.observe(ratio) is not Movement.USUAL:
            return i - 1, "steps move the weights by over 4 %"
    return broken


def rate_that_moves(ratio: float, lrs: Sequence[float], ratios: Sequence[float]) -> float:
    """Return the lowest learning rate whose steps move the weights by a ratio, or the highest one that was tried.

    Args:
        ratio: How far, as a share of the weights' norm.
        lrs: Learning rate of each step, growing.
        ratios: How far each step moved the weights; a median over 5 steps is looked at.
    """
    for i in range(WINDOW, len(lrs)):
        near = [value for value in ratios[i - 2 : i + 3] if math.isfinite(value)]
        if near and median(near) >= ratio:
            return lrs[i]
    return lrs[-1]


def find_divergence(losses: Sequence[float], norms: Sequence[float]) -> tuple[int, str] | None:
    """Return the first step at which loss or norm have left their range, and what did; None if they stay in it."""
    lowest = math.inf
    for i, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if not math.isfinite(loss):
            return i, "the loss is not finite"
        if not math.isfinite(norm):
            return i, "the gradient is not finite"
        if i < WINDOW:
            continue
        middle = i - WINDOW // 2
        recent = median(losses[i + 1 - WINDOW : i + 1])
        lowest = min(lowest, recent)
        if loss > SPIKE * median(losses[:i]):
            return i, f"one loss is over {SPIKE:g} times the typical one"
        if recent > RISE * lowest > 0:
            return middle, f"the loss is over {RISE:g} times its lowest"
        if recent > ABOVE * median(losses[:WINDOW]) > 0:
            return middle, f"the loss is over {ABOVE:g} times the first one"
        if i >= 2 * WINDOW and median(norms[i + 1 - WINDOW : i + 1]) > NORM * median(norms[: i + 1 - WINDOW]):
            return middle, f"the gradient norm is over {NORM:g} times the typical one"
    return None


def _rate_that_learns(lrs: Sequence[float], course: Array) -> float:
    """Return the rate at which the loss falls steepest, at most a tenth of that at which it is lowest."""
    slope = _slope(np.log10(lrs[: len(course)]), course)
    lowest = int(course.argmin())
    # A steep fall at a learning rate that is far too low for one is noise.
    first = next(i for i, lr in enumerate(lrs) if lr >= lrs[lowest] / SAFETY**2)
    return min(lrs[lowest] / SAFETY, lrs[first + int(slope[first : lowest + 1].argmin())])


def _smooth(values: Array) -> Array:
    """Smooth a series: a median over 5 steps against odd batches, then a mean over a sixth of the series."""
    n, half = len(values), max(2, len(values) // 12)
    middle = [np.median(values[max(0, i - 2) : i + 3]) for i in range(n)]
    return np.array([np.mean(middle[max(0, i - half) : i + half + 1]) for i in range(n)])


def _slope(x: Array, y: Array) -> Array:
    """Return the slope of the least-squares line through each place's neighbours, a tenth of the series either side."""
    half = max(3, len(x) // 10)
    slopes = []
    for i in range(len(x)):
        near = slice(max(0, i - half), i + half + 1)
        dx = x[near] - x[near].mean()
        slopes.append(float((dx * y[near]).sum() / max((dx * dx).sum(), 1e-12)))
    return np.array(slopes)
