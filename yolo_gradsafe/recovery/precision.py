"""The precision ladder: fp16, bf16, fp32 at run time, and back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

__all__ = ["PrecisionLadder"]

_SPAN = 100
"""Steps within which faults of the precision are taken together."""


class PrecisionLadder:
    """Counts the faults that another precision would not have had. Plain numbers; knows no trainer.

    Args:
        rungs: Precisions to climb, the training's own first, ``fp32`` last.
        patience: Faults within 100 steps that make it climb.
        hold: Safe steps before it goes back down after the first climb; doubled by every further one.
    """

    def __init__(self, rungs: Sequence[str], patience: int, hold: int) -> None:
        self._rungs = list(rungs)
        self._patience = patience
        self._hold = hold / 2
        self._rung = 0
        self._clean = 0
        self._faults: deque[int] = deque(maxlen=patience)

    @property
    def now(self) -> str:
        """The precision to train in."""
        return self._rungs[self._rung]

    def count_fault(self, step: int) -> bool:
        """Count a step that overflowed in this precision alone; True when the precision is raised for it."""
        self._clean = 0
        self._faults.append(step)
        enough = len(self._faults) == self._patience and step - self._faults[0] < _SPAN
        if not enough or self._rung + 1 == len(self._rungs):
            return False
        self._rung += 1
        self._hold *= 2
        self._faults.clear()
        return True

    def count_safe_step(self) -> bool:
        """Count a safe step; True when the precision goes down a rung for it."""
        self._clean += 1
        if not self._rung or self._clean < self._hold:
            return False
        self._rung -= 1
        self._clean = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        return {"rung": self._rung, "clean": self._clean, "hold": self._hold, "faults": list(self._faults)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._rung = min(int(state["rung"]), len(self._rungs) - 1)
        self._clean, self._hold = int(state["clean"]), float(state["hold"])
        self._faults.clear()
        self._faults.extend(map(int, state["faults"]))
