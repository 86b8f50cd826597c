"""The steps of the epoch under way, for the console and ``results.csv``."""

from __future__ import annotations

import math
import statistics
from collections import Counter

from yolo_gradsafe.telemetry.schema import StepRow

__all__ = ["EpochLog"]


class EpochLog:
    """Gathers the rows of one epoch."""

    def __init__(self) -> None:
        self.rows: list[StepRow] = []

    def counts(self) -> Counter[str]:
        """Return the number of steps by verdict."""
        return Counter(row.verdict for row in self.rows)

    def norms(self) -> list[float]:
        """Return the finite gradient norms."""
        return [row.grad_norm for row in self.rows if math.isfinite(row.grad_norm)]

    def columns(self) -> dict[str, float]:
        """Return the columns of ``results.csv``: the same every epoch, none with ``loss`` or ``metric`` in its name.

        ``grad_norm`` is the epoch's median, ``grad_noise`` the standard deviation of the norms over their mean,
        ``clip_share`` the share of the steps that were clipped, ``skipped`` the steps that were not applied,
        ``amp_scale`` the loss scale at the end. What is not known is nan.
        """
        norms, steps = self.norms(), len(self.rows)
        clipped = sum(0 < row.clip_scale < 1 for row in self.rows)
        return {
            "gradsafe/grad_norm": statistics.median(norms) if norms else math.nan,
            "gradsafe/grad_norm_max": max(norms, default=math.nan),
            "gradsafe/grad_noise": statistics.pstdev(norms) / statistics.fmean(norms) if any(norms) else math.nan,
            "gradsafe/clip_share": clipped / steps if steps else math.nan,
            "gradsafe/skipped": float(sum(row.clip_scale == 0 for row in self.rows)),
            "gradsafe/amp_scale": self.rows[-1].amp_scale if self.rows else math.nan,
        }
