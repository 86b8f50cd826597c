"""Whether steps move the weights too far: the learning rate is too high, whatever the loss says yet.

A training from random weights that goes well moves its convolutions by 2 % of their norm a step at most, at the end of
the warm-up; trainings that end with a useless model do so by 7 % to many times it, from the first steps on. The loss
tells that late, or never: a model that is broken in its second step has no usual loss to compare with.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

__all__ = ["HEALTHY", "SUITABLE", "SUITABLE_PRETRAINED", "Movement", "MovementMonitor"]

HEALTHY = 0.02
"""Largest update-to-weight ratio of a step in healthy trainings."""
SUITABLE = 0.015
"""Update-to-weight ratio at the peak of the schedule that a training from random weights bears."""
SUITABLE_PRETRAINED = 0.005
"""The same for a training that starts from trained weights: three times that loses what they had learned."""

_TOO_FAR = 2 * HEALTHY
"""Update-to-weight ratio that is too large."""
_IN_A_ROW = 2
"""Steps in a row beyond ``_TOO_FAR`` that are no accident."""
_BROKEN = 0.5
"""Update-to-weight ratio of a single step after which nothing is left of the weights."""
_BROKEN_IN_A_ROW = 0.3
"""The same for the sum of the ratios of steps in a row that are beyond ``_TOO_FAR``."""


class Movement(IntEnum):
    """How far the last steps have moved the weights."""

    USUAL = 0
    TOO_FAR = 1
    """Steps in a row have moved them too far."""
    REPLACED = 2
    """The last steps have replaced them rather than moved them: they have to be taken back."""


class MovementMonitor:
    """Follows the update-to-weight ratio. Plain numbers; knows no trainer."""

    def __init__(self) -> None:
        self._row = 0
        self._moved = 0.0

    def observe(self, update_ratio: float) -> Movement:
        """Take in the update-to-weight ratio of the step before, nan when it is not known, and say how it looks."""
        if update_ratio > _TOO_FAR:
            self._row, self._moved = self._row + 1, self._moved + min(update_ratio, 1.0)
        else:
            self._row, self._moved = 0, 0.0
        too_far = self._row >= _IN_A_ROW
        if update_ratio > _BROKEN or (too_far and self._moved > _BROKEN_IN_A_ROW):
            return Movement.REPLACED
        return Movement.TOO_FAR if too_far else Movement.USUAL

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as plain numbers."""
        return {"row": self._row, "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._row, self._moved = int(state.get("row", 0)), float(state.get("moved", 0.0))
