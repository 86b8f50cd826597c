"""The factor on the learning rate: lowered after a divergence, and let back up when it has held.

The factor is applied to the optimizer's groups for the length of a step and taken off again, so that the warm-up, the
scheduler, time mode and a resume, all of which write the learning rate anew, neither undo it nor apply it twice.
"""

from __future__ import annotations

from typing import Any

__all__ = ["BLAMELESS", "LearningRate", "bearable_factor"]

_SMALLEST = 1e-4
_RAMP = 1.02
"""Growth a healthy step on the way back: tenfold in 117 steps."""
_MOVEMENT = 0.02
"""Movement a step, as a share of the weights' norm, that trainings from scratch bear; 1e-3 is usual later on."""
BLAMELESS = 0.3
"""A bearable factor above this clears the learning rate."""
_RETRY = 0.3
"""Of a rate that has diverged a second time, the most that is ever tried again."""


def bearable_factor(drift: float, lr_sum: float, lr: float) -> float:
    """Return the factor that would let the weights move as slowly as they should.

    Adam-like steps move every weight by about the learning rate whatever the gradient, so the movement itself says by
    how much a rate is too high; a guess of a tenth may have to be repeated for hours.

    Args:
        drift: Movement of the weights since a snapshot, as a share of their norm.
        lr_sum: Sum of the learning rates of the steps since.
        lr: Rate that training is to go on with, times the factor.

    Returns:
        Above ``BLAMELESS`` where the rate is not what moved them.
    """
    if not drift > 0 or not lr > 0 or not lr_sum > 0:
        return 1.0
    return _MOVEMENT / (drift / lr_sum * lr)


class LearningRate:
    """Plain numbers; knows no optimizer.

    Args:
        backoff: Factor of a lowering.
        hold: Healthy steps before the rate grows again.
    """

    def __init__(self, backoff: float, hold: int) -> None:
        self.factor = 1.0
        """What the host's learning rate is multiplied with."""
        self._backoff = backoff
        self._hold = hold
        self._ceiling = 1.0
        self._lowered = False
        self._healthy = 0

    def lower(self, bearable: float = 1.0) -> None:
        """Lower the rate. From the second time on, the rate that has diverged again is not gone back to.

        Args:
            bearable: What the weights' movement says the host's rate would have to be multiplied with.
        """
        if self._lowered:
            self._ceiling = min(self._ceiling, self.factor * _RETRY)
        self._lowered = True
        self._healthy = 0
        self.factor = max(min(self.factor * self._backoff, bearable), _SMALLEST)

    def count_safe_step(self) -> bool:
        """Count a healthy step; True when this one has brought the rate all the way back."""
        self._healthy += 1
        if self.factor >= self._ceiling or self._healthy <= self._hold:
            return False
        self.factor = min(self.factor * _RAMP, self._ceiling)
        return self.factor == self._ceiling

    def restart_hold(self) -> None:
        """Start the wait anew."""
        self._healthy = 0

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        return {"factor": self.factor, "ceiling": self._ceiling, "lowered": self._lowered, "healthy": self._healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.factor, self._ceiling = float(state["factor"]), float(state["ceiling"])
        self._lowered, self._healthy = bool(state["lowered"]), int(state["healthy"])
