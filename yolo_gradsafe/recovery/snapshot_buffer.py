"""The snapshots that are kept: which may be trusted, how often they are taken, how much memory they may use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from yolo_gradsafe.adapter.device_memory import out_of_memory
from yolo_gradsafe.recovery.snapshot import Snapshot

__all__ = ["SnapshotBuffer"]


class SnapshotBuffer:
    """Keeps the newest snapshots that healthy steps have proven, and one candidate.

    Args:
        live: Returns the state's tensors by name, as they are now.
        extra: Returns what goes with them.
        trust_steps: Healthy steps after which a snapshot is trusted.
        share: Share of the training time that snapshots may take.
        slots: Snapshots held at most, the candidate among them; at least 2.
    """

    def __init__(
        self,
        live: Callable[[], Mapping[str, Tensor]],
        extra: Callable[[], dict[str, Any]],
        trust_steps: int,
        share: float,
        slots: int,
    ) -> None:
        self._live = live
        self._extra = extra
        self._trust_steps = trust_steps
        self._share = share
        self._free = [Snapshot() for _ in range(slots)]
        self._trusted: list[Snapshot] = []
        self._candidate: Snapshot | None = None
        self._proof = 0
        self._take_seconds = self._proof_seconds = 0.0
        self._elapsed = 0.0
        self._steps_timed = 0
        self._last = 0.0
        self.interval = trust_steps
        """Steps from one snapshot to the next: as many as it takes to stay within the share, on the slowest rank."""
        self._since = 0

    @property
    def trusted(self) -> list[Snapshot]:
        """The trusted snapshots, newest first."""
        return list(reversed(self._trusted))

    def take_first(self, step: int) -> bool:
        """Take the first snapshot, before the first step; trusted, if it is finite, for want of an older one.

        Returns:
            Whether it is finite.
        """
        first = self._free.pop()
        self._take(first, step)
        sound = first.finite()
        (self._trusted if sound else self._free).append(first)
        return sound

    def revoke_newest(self) -> None:
        """Give up the newest trusted snapshot: it is not finite on another rank."""
        if self._trusted:
            self._free.append(self._trusted.pop())

    def pause_clock(self) -> None:
        """Leave the time until the next step out of account: validation, a new epoch."""
        self._last = 0.0

    def count_safe_step(self, step: int) -> bool:
        """Count a healthy step that was taken; may promote the candidate, and take a new one.

        Returns:
            False when the candidate turned out not to be finite, hence what it was taken from.
        """
        sound = True
        now = time.perf_counter()
        if self._last:
            self._elapsed += now - self._last
            self._steps_timed += 1
        self._since += 1
        self._proof += 1
        if self._candidate is not None and self._proof >= self._trust_steps:
            sound = self._promote()
        if self._candidate is None and self._since >= self.interval:
            self._since = self._proof = 0
            self._take_candidate(step)
            self._set_interval()
        self._last = time.perf_counter()
        return sound

    def drop_candidate(self) -> None:
        """A step was not healthy: the candidate may be part of what is wrong."""
        if self._candidate is not None:
            self._free.append(self._candidate)
        self._candidate = None
        self._proof = 0

    def drop_newest(self) -> None:
        """Give up the newest trusted snapshot, if there is an older one: going back to it did not help."""
        if len(self._trusted) > 1:
            self._free.append(self._trusted.pop())

    def _promote(self) -> bool:
        """Trust the candidate, if it is finite."""
        assert self._candidate is not None
        start = time.perf_counter()
        snapshot, self._candidate = self._candidate, None
        sound = snapshot.finite()
        (self._trusted if sound else self._free).append(snapshot)
        self._proof_seconds = time.perf_counter() - start
        # To launch the copies takes less than to make them: the device does nothing else meanwhile.
        self._take_seconds = max(self._take_seconds, snapshot.copy_seconds)
        return sound

    def _take_candidate(self, step: int) -> None:
        """Take a snapshot, in the place of the oldest where no place is free; none where the host has no memory for it.

        A snapshot that could not be taken is what it was before: it keeps its place.
        """
        places = self._free or self._trusted
        snapshot = places[-1] if self._free else places[0]
        try:
            self._take(snapshot, step)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return
        places.remove(snapshot)
        self._candidate = snapshot

    def _take(self, snapshot: Snapshot, step: int) -> None:
        start = time.perf_counter()
        snapshot.take(step, self._live(), self._extra())
        self._take_seconds = time.perf_counter() - start

    def _set_interval(self) -> None:
        """Space the snapshots so that taking and proving one stays within its share of the time until the next."""
        if self._steps_timed:
            seconds = self._elapsed / self._steps_timed
            needed = (self._take_seconds + self._proof_seconds) / (self._share * max(seconds, 1e-6))
            self.interval = max(self._trust_steps, math.ceil(needed))
