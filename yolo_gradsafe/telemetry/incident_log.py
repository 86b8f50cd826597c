"""What needed a remedy while a training runs: to the records, and to the console: once a kind, each rollback."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from yolo_gradsafe.telemetry.notify import Notifier
from yolo_gradsafe.telemetry.recorder import Recorder
from yolo_gradsafe.telemetry.schema import SAID_BY_STEP, Incident, Kind, Remedy
from yolo_gradsafe.telemetry.sentences import action, message

__all__ = ["IncidentLog", "Progress"]

_PARTS = {**SAID_BY_STEP, Kind.HEALED: Remedy.REPAIRED, Kind.PRECISION: Remedy.PRECISION_RAISED}
"""The same for a warning, which is shorter than a report: one event is one warning."""


@dataclass
class Progress:
    """Where the training stands; epochs, batches and steps count from 1."""

    epoch: int = 0
    """Epoch; 0 before the first."""
    batch: int = 0
    """Batch of the epoch."""
    step: int = 0
    """Optimizer steps of the run, the one under way and those of a resumed run included."""

    def begin_epoch(self, epoch: int) -> None:
        """An epoch starts."""
        self.epoch, self.batch = epoch, 0

    def begin_batch(self) -> None:
        """A batch starts."""
        self.batch += 1

    def begin_step(self) -> None:
        """An optimizer step starts."""
        self.step += 1


class IncidentLog:
    """Collects incidents, and writes them when a step or an event is over.

    Args:
        progress: Where the training stands.
        recorder: Writes them; None on ranks that do not.
        warn: Shows a sentence to the user.
        notifier: Tells somebody of them; None without anybody to tell.
    """

    def __init__(
        self,
        progress: Progress,
        recorder: Recorder | None,
        warn: Callable[[str], None],
        notifier: Notifier | None = None,
    ) -> None:
        self._progress = progress
        self._recorder = recorder
        self._warn = warn
        self._notifier = notifier
        self._shown = {Kind.OBSERVE_ONLY}  # of that the session warns in full
        self._pending: list[Incident] = []
        self.written = 0
        """Incidents so far, faults of the plugin not counted."""

    def log(self, kind: Kind, **facts: Any) -> None:
        """Note an incident of here and now; ``flush`` writes it.

        Args:
            kind: What it is about.
            **facts: Fields of ``Incident``.
        """
        self._pending.append(self._incident(kind, facts))

    def flush(self, first: Incident | None = None) -> None:
        """Write what was noted.

        Args:
            first: An incident that the noted ones are a part of: the step's own, before what was done about it.
        """
        noted, self._pending = self._pending, []
        parts = {kind for kind, remedy in _PARTS.items() if first and remedy in first.remedies}
        if first:
            self._write(_in_words(first), parts)
        for incident in map(_in_words, noted):
            self._write(incident, told=incident.kind in parts)

    def internal_error(self, place: str, trace: str) -> None:
        """Record a fault of the plugin, at once; the recorder itself may be what is broken.

        Args:
            place: What could not be done, as in "could not ...".
            trace: The traceback.
        """
        if self._recorder is None:
            return
        detail = f"{place}: {trace.strip().splitlines()[-1]}"
        incident = _in_words(self._incident(Kind.INTERNAL_ERROR, {"detail": detail}))
        if self._notifier:
            self._notifier.tell(incident)
        try:
            self._recorder.incident(incident)
        except Exception as error:
            self._warn(f"the fault could not be recorded either: {error}")

    def _incident(self, kind: Kind, facts: dict[str, Any]) -> Incident:
        now = self._progress
        return Incident(**{"kind": kind, "epoch": now.epoch, "step": now.step, "batch": now.batch, **facts})

    def _write(self, incident: Incident, parts: AbstractSet[Kind] = frozenset(), told: bool = False) -> None:
        """Record an incident, and warn of it where it is the first of its kind, or a rollback.

        Args:
            incident: The incident, in words.
            parts: Kinds of incidents that its words tell as well.
            told: Whether the words of another one have told it.
        """
        self.written += 1
        kinds, rolled_back = {incident.kind, *parts}, Remedy.ROLLED_BACK in incident.remedies
        if not told and (rolled_back or not kinds <= self._shown):
            where = f"epoch {incident.epoch}, batch {incident.batch}"
            seen = f"{incident.message} ({incident.culprit})" if incident.culprit else incident.message
            further = "" if rolled_back else " Further incidents of this kind are only recorded."
            self._warn(f"{where}: {seen}; {incident.action}.{further}")
        self._shown |= kinds
        if self._recorder:
            self._recorder.incident(incident)
        if self._notifier:
            self._notifier.tell(incident)

    def close(self) -> None:
        """Let whoever is told of incidents hear of the last ones."""
        if self._notifier:
            self._notifier.close()


def _in_words(incident: Incident) -> Incident:
    """Return an incident with its sentences."""
    return replace(incident, message=message(incident), action=action(incident))
