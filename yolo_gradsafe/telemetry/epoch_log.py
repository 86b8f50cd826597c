"""The steps of the epoch under way, for the console and ``results.csv``."""

from __future__ import annotations

import math
from array import array
from collections import Counter

import numpy as np

from yolo_gradsafe.telemetry.schema import StepRow

__all__ = ["EpochLog"]


class EpochLog:
    """Counts the steps of one epoch; of each it keeps the norm alone, because an epoch may have a million."""

    def __init__(self) -> None:
        self._verdicts: Counter[str] = Counter()
        self._norms = array("d")
        self._clipped = self._skipped = 0
        self._amp_scale = math.nan

    def add(self, row: StepRow) -> None:
        """Take in a step."""
        self._verdicts[row.verdict] += 1
        self._clipped += 0 < row.clip_scale < 1
        self._skipped += row.clip_scale == 0
        self._amp_scale = row.amp_scale
        if math.isfinite(row.grad_norm):
            self._norms.append(row.grad_norm)

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
        ``amp_scale`` the loss scale at the end. What is not known is nan.
        """
        norms, steps = np.array(self._norms), self._verdicts.total()
        return {
            "gradsafe/grad_norm": float(np.median(norms)) if norms.size else math.nan,
            "gradsafe/grad_norm_max": self.largest_norm(),
            "gradsafe/grad_noise": float(norms.std() / norms.mean()) if norms.any() else math.nan,
            "gradsafe/clip_share": self._clipped / steps if steps else math.nan,
            "gradsafe/skipped": float(self._skipped),
            "gradsafe/amp_scale": self._amp_scale,
        }
