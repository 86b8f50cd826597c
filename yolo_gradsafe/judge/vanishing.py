"""Stages whose gradients have vanished."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["VanishingMonitor"]

_SETTLED = 20
"""Steps after which the usual norm of a stage is known."""
_WEIGHT = 0.05
"""Weight of a step in the moving average of the log norm."""


@dataclass
class _Stage:
    level: float = 0.0
    """Running mean of the log norm."""
    seen: int = 0
    """Steps that the level was made of."""
    low: int = 0
    """Steps in a row far below it."""


class VanishingMonitor:
    """Watches the norm of every stage for a fall to nothing that lasts. Plain numbers; knows no model.

    The level of a stage is a running mean of its log norm, and stands still while the stage is low.

    Args:
        stages: Their names.
        fall: Share of its usual norm below which a stage counts as vanished.
        patience: Steps in a row after which it is said to be so.
    """

    def __init__(self, stages: Sequence[str], fall: float = 1e-6, patience: int = 50) -> None:
        self._stages = {name: _Stage() for name in stages}
        self._fall = math.log(fall)
        self._patience = patience

    def observe(self, norms: Iterable[float]) -> list[str]:
        """Take in the norms of a healthy step, and name the stages that have vanished.

        Args:
            norms: In the order of the stages; nan for one without any gradient.
        """
        for stage, norm in zip(self._stages.values(), norms, strict=True):
            if math.isnan(norm):  # frozen by the user, which is no fault
                stage.low = 0
                continue
            log = math.log(norm) if norm > 0 else -math.inf
            if stage.seen >= _SETTLED and log < stage.level + self._fall:
                stage.low += 1
                continue
            stage.low = 0
            if math.isfinite(log):
                stage.level += max(_WEIGHT, 1 / (stage.seen + 1)) * (log - stage.level)
                stage.seen += 1
        return [name for name, stage in self._stages.items() if stage.low >= self._patience]

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt of each stage, as plain numbers."""
        return {name: [stage.level, stage.seen, stage.low] for name, stage in self._stages.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; stages that it does not know start anew."""
        self._stages = {name: _Stage(*state.get(name, ())) for name in self._stages}
