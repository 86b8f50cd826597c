"""Keeps the ranks of a training together when the plugin itself fails on one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.clipping import Clipper
from yolo_gradsafe.error_boundary import ErrorBoundary
from yolo_gradsafe.recovery.events import EventLog
from yolo_gradsafe.recovery.isolation import Isolation
from yolo_gradsafe.recovery.manager import RecoveryManager
from yolo_gradsafe.recovery.rollback import RollbackManager

__all__ = ["RankSync"]


class RankSync:
    """Notes faults that leave a rank behind the others, and makes all equal again.

    A fault in what the ranks do together is a fault on all of them. A fault in what each does for itself, such as to
    clip, is told with the next step's one message; all then take over rank 0's weights and what it has learnt.

    Args:
        host: The trainer.
        shield: Catches the plugin's own faults.
        restorer: Takes its snapshots anew.
        medic: What it has learnt is shared,
        clipper: and what this has,
        isolation: and whether this is armed.
        log: Where to say what was done.
    """

    def __init__(
        self,
        host: Host,
        shield: ErrorBoundary,
        restorer: RollbackManager,
        medic: RecoveryManager,
        clipper: Clipper,
        isolation: Isolation,
        log: EventLog,
    ) -> None:
        self._host = host
        self._shield = shield
        self._restorer = restorer
        self._log = log
        self._shared: dict[str, RecoveryManager | Clipper | Isolation] = {
            "medic": medic,
            "clipper": clipper,
            "isolation": isolation,
        }
        self._behind = False

    @property
    def opinion(self) -> list[float]:
        """What this rank tells the others with a step's message; three numbers, of which the largest counts."""
        return [self._behind, *self._restorer.opinion]

    @contextmanager
    def alone(self, place: str) -> Iterator[None]:
        """ErrorBoundary what this rank does for itself.

        Args:
            place: What is being done, for the log.
        """
        before = self._shield.faults[place]
        with self._shield(place):
            yield
        self._behind |= self._shield.faults[place] > before

    @contextmanager
    def together(self, place: str) -> Iterator[None]:
        """ErrorBoundary what all ranks do together; it fails on all or on none."""
        with self.alone(place), self._host.ranks.together():
            yield

    def settle(self, agreed: Sequence[float], steps: int) -> None:
        """Do what the ranks' opinions ask for. Collective, if it is anything.

        Args:
            agreed: The largest of every number of ``opinion``.
            steps: Optimizer steps so far.
        """
        behind, unsound, interval = agreed
        self._restorer.pace(interval)
        self._behind = False
        if behind and self._host.ranks.several:
            with self.together("make the ranks equal"):
                self._level()
            if interval:
                with self._shield("take the first snapshot anew"), self._host.ranks.together():
                    self._restorer.start_over(steps)
        elif unsound:
            with self.together("heal what a snapshot was taken of"):
                self._restorer.heal_unsound()

    def _level(self) -> None:
        learnt = self._host.ranks.same({name: part.state_dict() for name, part in self._shared.items()})
        for name, part in self._shared.items():
            part.load_state_dict(learnt[name])
        self._host.level()
        self._log.tell("internal_error", "the plugin had failed on a rank", "gave all ranks the weights of rank 0")
