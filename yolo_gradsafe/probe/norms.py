"""Which clip value? The distribution of gradient norms in a real, short training.

At initialisation norms are unlike those of training, so some warm-up steps come first and do not count. The steps have
the batches of the user's training, as gradients are summed over them: twice the batches, up to twice the norm. The idea
of clipping at a percentile is that of AutoClip (Seetharaman et al. 2020, arXiv 2007.14469).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from yolo_gradsafe.probe.parts import Norms
from yolo_gradsafe.probe.steps import STOCK_MAX_NORM, Step, Trainable, train_step

__all__ = ["WARMUP", "distribution", "holds", "measure_norms"]

WARMUP = 8
"""Steps of one batch, the learning rate growing linearly, before norms count."""
WORSE = 1.1


def measure_norms(
    trainer: Trainable, lr: float, steps: int, batches: int, seed: int, tick: Callable[[], None]
) -> Norms:
    """Train for some steps and look at their norms.

    Args:
        trainer: What is trained; it starts from its initial weights and keeps those it ends with.
        lr: Learning rate after warm-up.
        steps: Optimizer steps that count.
        batches: Batches a step.
        seed: Seed of the images' augmentation.
        tick: Called after each warm-up step, and as often as a step has batches after each other step.
    """
    trainer.reset(seed)
    before = []
    for i in range(WARMUP):
        before.append(train_step(trainer, lr * i / WARMUP).loss)
        tick()
    seen = []
    for _ in range(steps):
        seen.append(train_step(trainer, lr, batches))
        for _ in range(batches):
            tick()
    return distribution(before, seen, lr, batches)


def distribution(before: Sequence[float], steps: Sequence[Step], lr: float, batches: int) -> Norms:
    """Describe the norms of some steps; quantiles are of the finite ones, linear between neighbours.

    Args:
        before: Losses of the warm-up steps, the first of them of the untrained model.
        steps: At least one step.
        lr: Their learning rate.
        batches: Batches a step.
    """
    norms = [step.norm for step in steps]
    finite = [norm for norm in norms if math.isfinite(norm)]
    images = sum(step.images for step in steps) / len(steps)
    median, p95, p99 = (float(q) for q in np.quantile(finite, (0.5, 0.95, 0.99))) if finite else (None, None, None)
    return Norms(
        lr=lr,
        batches=batches,
        images=images,
        norm=[step.norm for step in steps],
        loss=[step.loss for step in steps],
        median=median,
        p95=p95,
        p99=p99,
        max=max(finite, default=None),
        median_per_image=None if median is None else median / images,
        held=holds(before, [step.loss for step in steps]),
        over_stock=sum(not norm <= STOCK_MAX_NORM for norm in norms) / len(norms),
    )


def holds(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a learning rate held: every loss is finite, and the last ones are not worse than the first.

    Args:
        before: Losses of warm-up.
        after: Losses of the steps after it; the last third of them counts.
    """
    if not all(map(math.isfinite, [*before, *after])):
        return False
    last = after[-max(1, len(after) // 3) :]
    return float(np.median(last)) <= WORSE * float(np.median(before[: WARMUP // 2]))
