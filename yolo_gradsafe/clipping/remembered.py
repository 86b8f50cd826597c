"""The last norms of a run, as the baselines that look back over a window keep them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from yolo_gradsafe.clipping import state as check

__all__ = ["RememberedNorms"]


class RememberedNorms:
    """What the last optimizer steps had for norms.

    Args:
        window: Optimizer steps that are remembered.
    """

    def __init__(self, window: int) -> None:
        self._norms: deque[float] = deque(maxlen=window)

    def start(self, norms: Sequence[float]) -> None:
        """Begin with these norms."""
        self._norms.clear()
        self._norms.extend(norms)

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a history.

        Raises:
            ValueError: It is damaged.
        """
        self.start(check.numbers(check.fields(state, "norms")["norms"], above=0))
