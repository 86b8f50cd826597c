"""When a fault strikes: batches counted as they come, so that an epoch that is redone does not bring it back."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Moment", "Schedule", "Where", "resolve"]

Where = int | float
"""A place in a row: an int counts from 1, or from the end when it is negative; a float is a share, 0 to 1."""


@dataclass(frozen=True)
class Moment:
    """The batch that is about to be trained on."""

    epoch: int
    """Epoch, from 1."""
    batch: int
    """Batch of the epoch, from 1."""
    epochs: int
    """Epochs planned."""
    batches: int
    """Batches an epoch."""
    files: tuple[str, ...] = ()
    """Image files of the batch."""


def resolve(where: Where, count: int) -> int:
    """Return a place as a number from 1 to ``count``.

    Args:
        where: The place; one outside the row is moved to its nearer end.
        count: Length of the row.
    """
    counted = math.ceil(where * count) if isinstance(where, float) else where
    from_start = counted if counted >= 0 else count + 1 + counted
    return min(max(from_start, 1), count)


class Schedule:
    """A number of batches in a row from a place on, once in a run.

    Args:
        epoch: Epoch of the first.
        batch: Batch of the epoch.
        length: Batches that it strikes; 0 for all the rest.
        every: Batches from one strike to the next.
    """

    def __init__(self, epoch: Where, batch: Where, length: int = 1, every: int = 1) -> None:
        self.epoch = epoch
        self.batch = batch
        self.length = length
        self.every = every
        self._passed: int | None = None

    def due(self, moment: Moment) -> bool:
        """Tell whether it strikes now; asked once a batch, in order."""
        if self._passed is None:
            here = (moment.epoch, moment.batch)
            if here != (resolve(self.epoch, moment.epochs), resolve(self.batch, moment.batches)):
                return False
            self._passed = 0
        number, rest = divmod(self._passed, self.every)
        self._passed += 1
        return rest == 0 and (not self.length or number < self.length)

    def __str__(self) -> str:
        """Say it in words."""
        first = f"{_place(self.batch, 'batch')} of {_place(self.epoch, 'epoch')}"
        if self.length == 1:
            return first
        every = "" if self.every == 1 else f" (one in {self.every})"
        return f"{self.length or 'all'} batches{every} from {first} on"


def _place(where: Where, what: str) -> str:
    if isinstance(where, float):
        return f"the middle {what}" if where == 0.5 else f"the {what} at {where:.0%}"
    return {1: f"the first {what}", -1: f"the last {what}"}.get(where, f"{what} {where}")
