"""The loss scale after a step: GradScaler's own rule, kept from falling through the floor."""

from __future__ import annotations

import math
from typing import Any

from yolo_gradsafe.telemetry.schema import to_json

__all__ = ["LossScaleKeeper"]


class LossScaleKeeper:
    """Decides what the scale shall be where GradScaler's rule would do harm. Plain numbers; knows no scaler.

    Stock halves the scale at every overflow, down to zero in a long siege; the next healthy batch then divides by it.

    Args:
        floor: Smallest scale.
        hysteresis: Overflows in a row that it takes to lower the scale; 1 is GradScaler's own rule.
    """

    def __init__(self, floor: float, hysteresis: int = 1) -> None:
        self._floor = floor
        self._hysteresis = hysteresis
        self._overflows = 0
        self._good = math.nan

    def note_good(self, scale: float) -> None:
        """Note the scale of a step whose gradients were finite."""
        self._good = scale
        self._overflows = 0

    def after_overflow(self, scale: float, backoff: float) -> float | None:
        """Return the scale to set after a routine overflow; None leaves it to GradScaler.

        Args:
            scale: Scale of the step.
            backoff: What GradScaler multiplies it with.
        """
        self._overflows += 1
        if self._overflows < self._hysteresis:
            return scale
        self._overflows = 0
        return self._floor if scale * backoff < self._floor else None

    def after_skip(self, scale: float) -> float:
        """Return the scale to go on with after a step that was not taken: unchanged, unless it is no scale at all."""
        if math.isfinite(scale) and scale >= self._floor:
            return scale
        return self._good if math.isfinite(self._good) else max(self._floor, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        return {"overflows": self._overflows, "good": to_json(self._good)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._overflows, self._good = int(state["overflows"]), float(state["good"])
