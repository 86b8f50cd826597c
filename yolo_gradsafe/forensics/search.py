"""The search for what fails among many, in few trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Budget", "Exhausted", "Suspects", "search"]


_MANY = 8
"""How many there are at least where everything may be taken to fail after three that do."""


class Exhausted(Exception):
    """The time or the trials that a search may take are used up."""


class Budget:
    """Bounds what a diagnosis may cost.

    Args:
        seconds: Wall-clock time from now on.
        trials: Passes through the model.
    """

    def __init__(self, seconds: float, trials: int) -> None:
        self._until = time.monotonic() + seconds
        self._trials = trials
        self.spent = 0
        """Trials so far."""

    @property
    def seconds_left(self) -> float:
        """Wall-clock time that is left."""
        return max(0.0, self._until - time.monotonic())

    def spend(self) -> None:
        """Count a trial that is about to start.

        Raises:
            Exhausted: There is nothing left.
        """
        if self.spent >= self._trials or time.monotonic() >= self._until:
            raise Exhausted(f"stopped after {self.spent} passes")
        self.spent += 1


@dataclass
class Suspects:
    """What a search has found."""

    found: list[int] = field(default_factory=list)
    """Those that fail alone, in order."""
    complete: bool = False
    """Whether nothing fails without them; False where more may be to blame, or none alone."""
    cleared: bool = False
    """Whether something did not fail; False where everything does, so that none is to blame more than others."""


def search(fails: Callable[[Sequence[int]], bool], count: int, most: int = 4) -> Suspects:
    """Find those of ``count`` that fail alone, given that all together fail.

    One culprit costs about log2(count) + 2 trials: the half without it is cleared at each, the last one left is tried
    alone, then all others are. Where others picked from afar fail alone as well, the search is given up: everything
    fails.

    Args:
        fails: Tries some together; may raise ``Exhausted``, then what was found so far is returned.
        count: How many there are, at least 1.
        most: Culprits after which the search ends.
    """
    suspects = Suspects()
    left = list(range(count))

    def fail(indices: Sequence[int]) -> bool:
        failed = fails(indices)
        suspects.cleared = suspects.cleared or not failed
        return failed

    try:
        while left and len(suspects.found) < most:
            group = left
            while len(group) > 1:
                half = group[: len(group) // 2]
                group = half if fail(half) else group[len(group) // 2 :]
            if not fail(group):
                break  # each half is fine: it takes several of them
            suspects.found.append(group[0])
            left = [i for i in left if i != group[0]]
            if not left or not fail(left):
                suspects.complete = True
                break
            if len(suspects.found) == 1 and count >= _MANY and all(fail([left[i]]) for i in (len(left) // 2, -1)):
                break  # any of them fails
    except Exhausted:
        pass
    suspects.found.sort()
    return suspects
