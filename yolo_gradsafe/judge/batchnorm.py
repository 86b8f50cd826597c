"""Steps that spoil the batch-norm statistics although loss and gradients are fine."""

from __future__ import annotations

import math
from typing import Any

from yolo_gradsafe.telemetry.schema import to_json

__all__ = ["BatchNormMonitor"]

_BLOWN_UP = 1e3
"""Growth of the statistics' norm in one step that no data explain; it would take a thousand steps to fade."""


class BatchNormMonitor:
    """Follows the norm of all batch-norm statistics. Plain numbers; knows no model."""

    def __init__(self) -> None:
        self._usual = math.inf
        self._unsound_steps = 0

    def is_blown_up(self, norm: float) -> bool:
        """Whether a norm is far above that of the last good step."""
        return norm > self._usual * _BLOWN_UP

    def count_unsound(self) -> int:
        """Count a step that was finite but for the statistics, and return how many there were in a row."""
        self._unsound_steps += 1
        return self._unsound_steps

    def commit(self, norm: float) -> None:
        """Take a norm as good, with the statistics."""
        self._usual = norm
        self._unsound_steps = 0

    def forgive(self) -> None:
        """Forget the unsound steps: the model is another one."""
        self._unsound_steps = 0

    def forget(self) -> None:
        """Forget what is usual: the layers are others."""
        self._usual = math.inf
        self._unsound_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as JSON can hold it."""
        return {"usual": to_json(self._usual), "unsound_steps": self._unsound_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._usual = float(state["usual"])
        self._unsound_steps = int(state["unsound_steps"])
