"""The steps of the epoch under way, for the console and ``results.csv``."""

from __future__ import annotations

import math
from array import array
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from yolo_gradsafe.telemetry.schema import StepRow

__all__ = ["EpochLog"]


class EpochLog:
    """Counts the steps of one epoch; of each it keeps the norm alone, because an epoch may have a million.

    Args:
        amp_scale: Loss scale that the epoch begins with; nan when unknown.
    """

    def __init__(self, amp_scale: float = math.nan) -> None:
        self.amp_scale = amp_scale
        """The last loss scale that gradients can be scaled with: a broken one is set back."""
        self._verdicts: Counter[str] = Counter()
        self._norms = array("d")
        self._gathered = array("d")
        self._clipped = self._skipped = 0

    def add(self, row: StepRow) -> None:
        """Take in a step."""
        self._verdicts[row.verdict] += 1
        self._clipped += 0 < row.clip_scale < 1
        self._skipped += row.clip_scale == 0
        self._note_scale(row.amp_scale)
        if math.isfinite(row.grad_norm):
            self._norms.append(row.grad_norm)

    def add_gathered(self, grad_norm: float, amp_scale: float) -> None:
        """Take in the gradients that wait for a step of a later epoch; they count where the epoch has no norm."""
        self._note_scale(amp_scale)
        if math.isfinite(grad_norm):
            self._gathered.append(grad_norm)

    @property
    def has_norm(self) -> bool:
        """Whether a step had a finite norm."""
        return bool(self._norms)

    def counts(self) -> Counter[str]:
        """Return the number of steps by verdict."""
        return self._verdicts

    def largest_norm(self) -> float:
        """Return the largest finite gradient norm; nan without one."""
        return max(self._norms, default=math.nan)

    def columns(self) -> dict[str, float]:
        """Return the columns of ``results.csv``: the same every epoch, none with ``loss`` or ``metric`` in its name.

        ``grad_norm`` is the epoch's median, ``grad_noise`` the standard deviation of the norms over their mean,
        ``clip_share`` the share of the steps that were clipped, ``skipped`` the steps that were not applied,
        ``amp_scale`` the loss scale at the end. An epoch without a step shows the norm of the gradients that have
        gathered by its end, and clipped none. What is not known is nan.
        """
        norms, steps = np.array(self._norms or self._gathered), self._verdicts.total()
        return {
            "gradsafe/grad_norm": float(np.median(norms)) if norms.size else math.nan,
            "gradsafe/grad_norm_max": float(norms.max()) if norms.size else math.nan,
            "gradsafe/grad_noise": _noise(norms),
            "gradsafe/clip_share": self._clipped / max(steps, 1) if steps or norms.size else math.nan,
            "gradsafe/skipped": float(self._skipped),
            "gradsafe/amp_scale": self.amp_scale,
        }

    def _note_scale(self, scale: float) -> None:
        if 0 < scale < math.inf:
            self.amp_scale = scale


def _noise(norms: NDArray[np.float64]) -> float:
    """Return the spread of the norms in units of their mean; 0 where all of them are 0."""
    if not norms.size:
        return math.nan
    return float(norms.std() / norms.mean()) if norms.any() else 0.0
