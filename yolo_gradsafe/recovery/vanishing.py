"""Stages whose gradients have vanished."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vanishing"]

_SETTLED = 20
_WEIGHT = 0.05


class Vanishing:
    """Watches the norm of every stage for a fall to nothing that lasts.

    The level of a stage is a running mean of its log norm, and stands still while the stage is low.

    Args:
        stages: Their names.
        fall: Share of its usual norm below which a stage counts as vanished.
        patience: Steps in a row after which it is said to be so.
    """

    def __init__(self, stages: Sequence[str], fall: float = 1e-6, patience: int = 50) -> None:
        self._stages = list(stages)
        self._fall = fall
        self._patience = patience
        self._level: NDArray[np.float64] = np.zeros(len(self._stages))
        self._seen = np.zeros(len(self._stages), dtype=int)
        self._low = np.zeros(len(self._stages), dtype=int)

    def see(self, norms: NDArray[np.float64]) -> list[str]:
        """Take in the norms of a healthy step, in the order of the stages, and name those that have vanished."""
        with np.errstate(divide="ignore"):
            logs = np.log(norms)
        low = (self._seen >= _SETTLED) & (logs < self._level + np.log(self._fall))
        usual = np.isfinite(logs) & ~low
        weight = np.maximum(_WEIGHT, 1 / (self._seen + 1))
        self._level[usual] += (weight * (logs - self._level))[usual]
        self._seen[usual] += 1
        self._low = np.where(low, self._low + 1, 0)
        return [self._stages[i] for i in np.flatnonzero(self._low >= self._patience)]
