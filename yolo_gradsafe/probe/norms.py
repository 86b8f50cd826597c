"""Which clip value? The distribution of gradient norms in a real, short training.

At initialisation norms are unlike those of training, so the steps of the warm-up do not count. Gradients are summed
over the batches of a step: twice the batches, up to twice the norm. The idea of clipping at a percentile is that of
AutoClip (Seetharaman et al. 2020, arXiv 2007.14469).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from yolo_gradsafe.probe.parts import Norms
from yolo_gradsafe.probe.steps import STOCK_MAX_NORM, Step

__all__ = ["distribution", "holds"]

WORSE = 1.1


def distribution(taken: Sequence[Step], lr: float, batches: int) -> Norms:
    """Describe the norms of a training; quantiles are of the finite ones, linear between neighbours.

    Args:
        taken: At least one step; the first fifth is warm-up, whose norms do not count.
        lr: Their largest learning rate.
        batches: Batches a step.
    """
    warm = min(len(taken) // 5, len(taken) - 1)
    before, steps = [step.loss for step in taken[: max(1, warm)]], taken[warm:]
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
        before: Losses of the warm-up.
        after: Losses of the steps after it, at least one; the last third of them counts.
    """
    if not all(map(math.isfinite, [*before, *after])):
        return False
    last = after[-max(1, len(after) // 3) :]
    return float(np.median(last)) <= WORSE * float(np.median(before))
