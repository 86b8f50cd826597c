"""The recent past of a training: how large losses and norms were, and whether they have left their range.

A single outlier is a ``spike``. Divergence is a change that lasts, and the classic test for that is the cumulative sum
(CUSUM; Page, "Continuous inspection schemes", Biometrika 1954): each step adds by how much its log loss exceeds the
usual level, less an allowance, and the sum never falls below zero. Noise drains away, a lasting rise adds up.

The sum only raises a suspicion. Whoever acts on it compares the same batch under other weights first
(``recovery/trusted_weights.py``), because harder data look the same from here.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from enum import Enum, auto
from typing import Any

from yolo_gradsafe.gradients.robust import usual_range

__all__ = ["EXCESS", "LossTrend", "LossTrendMonitor", "far_above"]

EXCESS = 3.0
"""A loss this many times the usual one is out of its range."""
_ALLOWANCE = math.log(2.5)
"""Log excess of a loss over the usual one that does not count."""
_CAP = math.log(20.0)
"""Largest log excess that a single step counts with."""
_ALARM = 4.0
"""Sum that is a suspicion: two steps of at least twentyfold loss, five of sixfold, or twenty-two of threefold."""
_VANISHED = 1e-3
"""Share of the usual loss, and of the usual norm, that is almost nothing."""
_VANISHED_STEPS = 5
"""Steps in a row of almost nothing after which the model has collapsed."""
_SPIKE_DEVIATIONS = 8.0
"""Robust deviations above the usual log norm that make a norm a spike."""
_SPIKE_FLOOR = 0.35
"""Smallest deviation of the log norm that is reckoned with: a quiet training is not made of spikes."""
_SETTLED = 20
"""Steps after which norms have a usual range."""
_REFRESH = 10
"""Norms from one look at the usual range to the next: it sorts all of them."""


def far_above(loss: float, usual: float, times: float = EXCESS) -> bool:
    """Whether a loss is out of its range: so many times the usual one, and as far above one that is negative."""
    return loss - usual > (times - 1) * abs(usual)


class LossTrend(Enum):
    """What the recent past says of a step."""

    USUAL = auto()
    SPIKE = auto()
    """Its loss or its norm is an outlier."""
    SUSPECT = auto()
    """Its loss is one, and losses have been out of their range for long enough to look into it."""
    COLLAPSED = auto()
    """Loss and norm have been almost 0 for several steps: the model has collapsed."""


class LossTrendMonitor:
    """Follows the losses and the norms of the steps that were healthy. Plain numbers; knows no trainer."""

    def __init__(self) -> None:
        self.sum = 0.0
        """The cumulative sum; 0 while losses are in their range."""
        self._losses: deque[float] = deque(maxlen=50)
        self._norms: deque[float] = deque(maxlen=200)
        self._largest_norm = math.inf
        self._new_norms = 0
        self._vanished = 0

    @property
    def loss_elevated(self) -> bool:
        """Whether losses are half-way to a suspicion."""
        return self.sum >= _ALARM / 2

    @property
    def usual(self) -> float:
        """The usual loss of an image: the median of recent ones; nan before the first step."""
        return math.exp(statistics.median(self._losses)) if self._losses else math.nan

    def observe(self, loss: float, norm: float) -> LossTrend:
        """Take in a step with a finite loss, and say how it looks.

        Args:
            loss: Loss an image. Losses that are not positive have no level and are not followed.
            norm: Global gradient norm.
        """
        usual = self.usual
        vanished = bool(self._losses) and loss < usual * _VANISHED and self._norm_vanished(norm)
        self._vanished = self._vanished + 1 if vanished else 0
        excess = math.log(loss / usual) if loss > 0 and self._losses else 0.0
        self.sum = max(0.0, self.sum + min(excess, _CAP) - _ALLOWANCE)
        if loss > 0 and not vanished and excess <= _ALLOWANCE:
            self._losses.append(math.log(loss))
        outlier = excess > math.log(EXCESS)
        spike = outlier or norm > self._largest_norm
        if 0 < norm < math.inf and not vanished:
            self._norms.append(norm)
            self._new_norms += 1
            if len(self._norms) >= _SETTLED and self._new_norms >= _REFRESH:
                self._refresh()
        if self._vanished >= _VANISHED_STEPS:
            return LossTrend.COLLAPSED
        if outlier and self.sum >= _ALARM:
            return LossTrend.SUSPECT
        return LossTrend.SPIKE if spike else LossTrend.USUAL

    def accept_level(self, loss: float) -> None:
        """Take a higher level as the usual one: a suspicion was unfounded, the data have changed."""
        self.sum = 0.0
        self._losses.clear()
        self._losses.append(math.log(loss))

    def forgive(self) -> None:
        """Drop the suspicion: the model is another one, the data are the same."""
        self.sum = 0.0
        self._vanished = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as plain numbers."""
        kept = {"losses": list(self._losses), "norms": list(self._norms)}
        return {"sum": self.sum, "vanished": self._vanished, "new_norms": self._new_norms, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.sum, self._vanished = float(state["sum"]), int(state["vanished"])
        self._losses.clear()
        self._norms.clear()
        self._losses.extend(map(float, state["losses"]))
        self._norms.extend(map(float, state["norms"]))
        if len(self._norms) >= _SETTLED:
            self._refresh()
        self._new_norms = int(state.get("new_norms", 0))

    def _norm_vanished(self, norm: float) -> bool:
        return bool(self._norms) and norm < statistics.median(self._norms) * _VANISHED

    def _refresh(self) -> None:
        self._new_norms = 0
        self._largest_norm = usual_range(self._norms, _SPIKE_DEVIATIONS, _SPIKE_FLOOR)[1]
