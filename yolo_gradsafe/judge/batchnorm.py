"""Steps that spoil the batch-norm statistics although loss and gradients are fine."""

from __future__ import annotations

import math

from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["BatchNormMonitor"]

_BLOWN_UP = 1e3
"""Growth of the statistics' norm in one step that no data explain; it would take a thousand steps to fade."""
_PATIENCE = 3
"""Such steps in a row, after which it is not the batch."""


class BatchNormMonitor:
    """Judges the norm of all batch-norm statistics. Plain numbers; knows no model."""

    def __init__(self) -> None:
        self._norm = math.inf
        self._usual = math.inf
        self._row = 0

    def blown_up(self, norm: float) -> bool:
        """Take in a step's norm, and say whether it is far above that of the last good step."""
        self._norm = norm
        return norm > self._usual * _BLOWN_UP

    def keep(self) -> None:
        """Take the norm as good, with the statistics."""
        self._usual = self._norm
        self._row = 0

    def verdict(self, finite: bool) -> Verdict:
        """Judge a step that is healthy but for the statistics.

        Args:
            finite: Whether they are finite, on every rank.

        Returns:
            ``poisoned`` a few times. After that it is not the batch: large but finite statistics are those of the data
            (``ok``), and such as are not finite come from weights that went bad (``diverging``).
        """
        self._row += 1
        if self._row <= _PATIENCE:
            return Verdict.POISONED
        self._row = 0
        return Verdict.OK if finite else Verdict.DIVERGING
