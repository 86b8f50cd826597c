"""The factor on the learning rate: lowered where it does harm, and let back up as far as it holds.

The factor is applied to the optimizer's groups for the length of a step and taken off again, so that the warm-up, the
scheduler, time mode, a user's own schedule and a resume, all of which write the learning rate anew, neither undo it nor
apply it twice.

It is the smaller of two. After a divergence the *backoff* lowers the rate by what helped before. Where steps move the
weights too far the *limit* lowers it to what moves them as they should: Adam-like steps move every weight by about the
learning rate whatever the gradient, so the movement itself says by how much a rate is too high.

The *peak* is the largest rate that the schedule comes to. Where the user changes it, as a callback on a plateau does,
what the two allow stays the same: a rate is not lowered twice for one reason, and one that did harm is not gone back to
when the user does. So they are kept as shares of the highest peak so far.
"""

from __future__ import annotations

import math
from typing import Any

from yolo_gradsafe.judge.movement import SUITABLE

__all__ = ["BLAMELESS", "LearningRate", "hold_steps"]

_SMALLEST = 1e-4
_RAMP = 1.02
"""Growth a healthy step on the way back: tenfold in 117 steps."""
_LIMIT_RAMP = 1.1
"""Growth a step of a limit; faster, because each step's movement says how far it may grow."""
_SAME = 0.95
"""A limit that falls by less was measured in a step from before it was set."""
_GROWTH = 2.0
"""Times the suitable ratio to which steps of a limited rate may grow from random weights. A limit that is set in the
first steps is too low for later ones: the weights grow, and a step of the same size moves them less. Weights that were
trained before have grown."""
_MUCH = 2.0
"""Times the suitable ratio that no step should come to."""
_NEAR_PEAK = 0.7
"""Share of its largest from which on the schedule has not begun to fall, as far as a limit is concerned."""
BLAMELESS = 0.3
"""A bearable factor above this clears the learning rate."""
_RETRY = 0.3
"""Of a rate that has diverged a second time, the most that is ever tried again."""
_HOLD_SHARE = 1 / 3
"""Share of a training for which a lowered rate is held at most. After a tenth it would grow as fast as the schedule
falls, so that the weights never come to rest."""
_SHORTEST_HOLD = 10
"""Fewest steps that are worth calling a hold."""


def hold_steps(wanted: int, planned: int) -> int:
    """Return for how many healthy steps a lowered rate is held, in a training of so many steps; 0 is unknown.

    A short training that waits as long as a long one never comes back to a rate at which it learns.
    """
    return min(wanted, max(_SHORTEST_HOLD, int(_HOLD_SHARE * planned))) if planned else wanted


class LearningRate:
    """Plain numbers; knows no optimizer.

    Args:
        backoff: Factor of a lowering.
        hold: Healthy steps before the rate grows again.
        suitable: Update-to-weight ratio that a step at the peak of the schedule should come to.
    """

    def __init__(self, backoff: float, hold: int, suitable: float = SUITABLE) -> None:
        self._lowering = backoff
        self._hold = hold
        self._suitable = suitable
        self._backoff = 1.0
        self._ceiling = 1.0
        self._lowered = False
        self._healthy = 0
        self._limit = 1.0
        self._share = 0.0
        self._peak = 0.0
        self._highest = 0.0

    @property
    def factor(self) -> float:
        """What the host's learning rate is multiplied with; never above what the user wants."""
        return min(1.0, min(self._backoff, self._limit) / self._whole)

    @property
    def _whole(self) -> float:
        """The user's peak as a share of the highest so far."""
        return self._peak / self._highest if self._highest else 1.0

    def lower(self, bearable: float = 1.0) -> None:
        """Lower the rate. From the second time on, the rate that has diverged again is not gone back to.

        Args:
            bearable: What the weights' movement says the host's rate would have to be multiplied with.
        """
        if self._lowered:
            self._ceiling = min(self._ceiling, self.factor * self._whole * _RETRY)
        self._lowered = True
        self._healthy = 0
        self._backoff = max(min(self.factor * self._lowering, bearable) * self._whole, _SMALLEST)

    def bearable(self, peak_ratio: float) -> float:
        """Return the factor that would let the weights move as they should, at the peak of the schedule.

        Args:
            peak_ratio: Update-to-weight ratio of a step at that peak; 0 where it is not known.

        Returns:
            Above ``BLAMELESS`` where the rate is not what moved them.
        """
        return self._suitable / peak_ratio if peak_ratio > 0 else 1.0

    def limit(self, peak_ratio: float) -> bool:
        """Lower the rate to one whose largest step, at the peak of the schedule, moves the weights as it should.

        Args:
            peak_ratio: Update-to-weight ratio that a step which moved them too far would come to at that peak.

        Returns:
            Whether the rate is lower now; not when the step was one from before it was limited.
        """
        exceeded = self.exceeded(peak_ratio)
        self._limit = min(self._limit, self._bearable_share(peak_ratio))
        return exceeded

    def exceeded(self, peak_ratio: float) -> bool:
        """Whether ``limit`` would lower the rate; not for a step from before it was limited."""
        return self._bearable_share(peak_ratio) < self._limit * _SAME

    def _bearable_share(self, peak_ratio: float) -> float:
        return max(self.bearable(peak_ratio) * self._whole, _SMALLEST)

    def follow(self, peak: float) -> None:
        """Keep what is allowed where the user has changed the peak.

        Args:
            peak: The largest rate that the schedule comes to; 0 where it is not known.
        """
        if peak > self._highest > 0:
            self._limit, self._ceiling, self._backoff = (
                share * self._highest / peak if share < 1 else 1.0
                for share in (self._limit, self._ceiling, self._backoff)
            )
        self._peak, self._highest = peak or self._peak, max(peak, self._highest)

    def count_safe_step(self, peak_ratio: float = math.nan, share: float = 1.0) -> bool:
        """Count a healthy step; the rate may grow.

        Args:
            peak_ratio: Update-to-weight ratio of the step before, at the peak of the schedule; nan if not known.
            share: The host's rate as a share of the largest of its schedule. A limit grows only until the schedule
                begins to fall: later it would undo the schedule.

        Returns:
            Whether this step has brought the rate all the way back.
        """
        before, whole = self.factor, self._whole
        ceiling = min(self._ceiling, whole)
        self._healthy += 1
        if self._backoff < ceiling and self._healthy > self._hold:
            self._backoff = min(self._backoff * _RAMP, ceiling)
        if self._limit < whole and (share > self._share or share >= _NEAR_PEAK) and not math.isnan(peak_ratio):
            growth = 1.0 if self._suitable < SUITABLE else _GROWTH
            bearable = growth * self.bearable(peak_ratio * share) * whole
            self._limit = max(self._limit, min(self._limit * _LIMIT_RAMP, bearable, whole))
        self._share = share
        return before < self.factor == ceiling / whole

    def moves_too_far(self, peak_ratio: float) -> bool:
        """Whether a step at the peak of the schedule moves the weights further than any should."""
        return peak_ratio > _MUCH * self._suitable

    def restart_hold(self) -> None:
        """Start the wait anew."""
        self._healthy = 0

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands."""
        return {
            "factor": self._backoff,
            "ceiling": self._ceiling,
            "lowered": self._lowered,
            "healthy": self._healthy,
            "limit": self._limit,
            "share": self._share,
            "peak": self._peak,
            "highest": self._highest,
            "suitable": self._suitable,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._backoff, self._ceiling = float(state["factor"]), float(state["ceiling"])
        self._lowered, self._healthy = bool(state["lowered"]), int(state["healthy"])
        self._limit, self._share = float(state.get("limit", 1.0)), float(state.get("share", 0.0))
        self._peak = float(state.get("peak", 0.0))
        self._highest = float(state.get("highest", self._peak))
        self._suitable = float(state.get("suitable", self._suitable))
