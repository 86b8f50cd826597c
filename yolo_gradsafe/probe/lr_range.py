"""Which learning rate? The range test: a short training whose learning rate grows exponentially up to 1.

Smith 2015 (arXiv 1506.01186) and 2018 (arXiv 1803.09820): where the loss begins to fall steeply, training begins to
learn; where it rises, the learning rate is too high. Optimizer, groups and momentum are the user's, the gradients are
clipped at 10 as stock does, and there is neither warm-up nor schedule. Each step takes one batch, whatever the
accumulation: the gradient is noisier than in training, so the answer errs on the low side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt

from yolo_gradsafe.probe.parts import LrRange
from yolo_gradsafe.probe.steps import Trainable, train_step

__all__ = ["LOWEST", "find_divergence", "judge_range", "measure_range"]

LOWEST, HIGHEST = 1e-5, 1.0
"""Learning rates of the first and the last step; Ultralytics allows lr0 up to 1."""

WINDOW = 5
"""Steps whose median is looked at, so that one odd batch decides nothing."""
SPIKE, RISE, ABOVE, NORM = 10.0, 4.0, 1.5, 10.0
"""Breakdown: one loss over its typical size, loss over its lowest, loss over its start, norm over its typical size."""
LEARNED = 0.03
SAFETY = 10.0
"""What a learning rate that holds for a few steps must be divided by to hold for a training."""

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
    for i in range(steps):
        if find_divergence(losses, norms) is None:
            lrs.append(LOWEST * (HIGHEST / LOWEST) ** (i / (steps - 1)))
            step = train_step(trainer, lrs[-1])
            losses.append(step.loss)
            norms.append(step.norm)
        tick()
    return judge_range(lrs, losses, norms)


def judge_range(lrs: Sequence[float], losses: Sequence[float], norms: Sequence[float]) -> LrRange:
    """Find where training breaks down, where the loss is lowest and where it falls steepest.

    Args:
        lrs: Learning rate of each step, growing by a constant factor.
        losses: Loss of each step.
        norms: Gradient norm of each step.
    """
    broken = find_divergence(losses, norms)
    end = max(1, len(lrs) if broken is None else broken[0])
    course = _smooth(np.asarray(losses[:end], dtype=np.float64))
    slope = _slope(np.log10(lrs[:end]), course)
    lowest = int(course.argmin())
    # A steep fall at a learning rate that is far too low for one is noise.
    first = next(i for i, lr in enumerate(lrs) if lr >= lrs[lowest] / SAFETY**2)
    steepest = first + int(slope[first : lowest + 1].argmin())
    diverges = None if broken is None else lrs[broken[0]]
    start = median(losses[: min(end, WINDOW)])
    return LrRange(
        lr=list(lrs),
        loss=list(losses),
        norm=list(norms),
        smoothed=course.tolist() if np.isfinite(course).all() else [],
        lr_diverges=diverges,
        diverges_by="" if broken is None else broken[1],
        lr_lowest=lrs[lowest],
        lr_steepest=lrs[steepest],
        descent=1 - float(course[lowest]) / start if math.isfinite(start) and start > 0 else 0.0,
        lr_suggested=min((diverges or HIGHEST) / SAFETY, lrs[lowest] / SAFETY, lrs[steepest]),
    )


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
