"""Keeps the ranks of a training together, also when the plugin itself fails on one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.error_boundary import ErrorBoundary
from yolo_gradsafe.recovery.rollback import RollbackManager
from yolo_gradsafe.state_registry import StateRegistry
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.schema import Kind, Place, Remedy

__all__ = ["RankFlags", "RankSync"]


@dataclass(frozen=True)
class RankFlags:
    """What a rank tells the others with a step's one message; the largest of each number counts."""

    failed: bool = False
    """Whether the plugin has failed there since the last step, in what that rank does for itself."""
    unsound_snapshot: bool = False
    """Whether a snapshot turned out not to be finite there."""
    snapshot_interval: int = 0
    """Steps from one snapshot to the next that it needs; 0 where it takes none."""

    def pack(self) -> list[float]:
        """Return the flags as numbers."""
        return [float(self.failed), float(self.unsound_snapshot), float(self.snapshot_interval)]

    @staticmethod
    def unpack(numbers: Sequence[float]) -> RankFlags:
        """Read what ``pack`` returned, or the largest of each number over the ranks."""
        failed, unsound, interval = numbers
        return RankFlags(bool(failed), bool(unsound), int(interval))


class RankSync:
    """Notes faults that leave a rank behind the others, and makes all equal again.

    A fault in what the ranks do together is a fault on all of them. A fault in what each does for itself, such as to
    clip, is told with the next step's one message; all then take over rank 0's weights and what it has learnt.

    Args:
        trainer: The trainer.
        boundary: Catches the plugin's own faults.
        rollback: Takes its snapshots anew.
        registry: What is learnt, and is shared.
        incidents: Where to say what was done.
    """

    def __init__(
        self,
        trainer: TrainerAdapter,
        boundary: ErrorBoundary,
        rollback: RollbackManager,
        registry: StateRegistry,
        incidents: IncidentLog,
    ) -> None:
        self.boundary = boundary
        self.ranks = trainer.ranks
        self._trainer = trainer
        self._rollback = rollback
        self._registry = registry
        self._incidents = incidents
        self._failed = False

    @contextmanager
    def local(self, place: str) -> Iterator[None]:
        """Contain faults in what this rank does for itself.

        Args:
            place: What is being done, for the log, as in "could not ...".
        """
        before = self.boundary.faults[place]
        with self.boundary(place):
            yield
        self._failed |= self.boundary.faults[place] > before

    @contextmanager
    def collective(self, place: str) -> Iterator[None]:
        """Contain faults in what all ranks do together; it fails on all or on none."""
        with self.local(place), self.ranks.collective():
            yield

    def local_flags(self) -> RankFlags:
        """Return what this rank has to tell the others."""
        return RankFlags(self._failed, self._rollback.unsound_snapshot, self._rollback.snapshot_interval)

    def apply(self, agreed: RankFlags, steps: int) -> None:
        """Do what the ranks' flags ask for. Collective, if it is anything.

        Args:
            agreed: The flags that hold for all ranks.
            steps: Optimizer steps so far.
        """
        self._rollback.set_interval(agreed.snapshot_interval)
        self._failed = False
        if agreed.failed and self.ranks.several:
            with self.collective("make the ranks equal"):
                self._level()
            if agreed.snapshot_interval:
                with self.boundary("take the first snapshot anew"), self.ranks.collective():
                    self._rollback.restart(steps)
        elif agreed.unsound_snapshot:
            with self.collective("repair what a snapshot was taken of"):
                self._rollback.repair_unsound()

    def _level(self) -> None:
        self._registry.load_state_dict(self.ranks.broadcast_object(self._registry.state_dict()))
        self._trainer.broadcast_state()
        self._incidents.log(Kind.INTERNAL_ERROR, place=Place.RANKS, remedies=(Remedy.RANKS_SYNCED,))
