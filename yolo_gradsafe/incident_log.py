"""What is told of a training while it runs: to the records, and once per kind to the log."""

from __future__ import annotations

from collections.abc import Iterable

from yolo_gradsafe import adapter
from yolo_gradsafe.recovery.events import Event
from yolo_gradsafe.telemetry import Incident, Recorder

__all__ = ["Journal"]


class Journal:
    """Notes incidents with the place at which the training stands.

    Args:
        recorder: Writes them; None on ranks that do not.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._warned: set[str] = set()
        self.epoch = 0
        """Epoch, from 1; 0 before the first."""
        self.step = 0
        """Optimizer step that the training has come to."""
        self.batch = 0
        """Batch of the epoch."""
        self.noted = 0
        """Incidents so far."""

    def note(self, incident: Incident) -> None:
        """Record an incident; warn at the first of its kind."""
        self.noted += 1
        if incident.kind not in self._warned:
            self._warned.add(incident.kind)
            where = f"epoch {incident.epoch}, batch {incident.batch}"
            seen = f"{incident.message} ({incident.culprit})" if incident.culprit else incident.message
            adapter.warn(f"{where}: {seen}; {incident.action}. More of this kind is only recorded.")
        if self._recorder:
            self._recorder.incident(incident)

    def events(self, events: Iterable[Event]) -> None:
        """Record what the recovery did."""
        for event in events:
            self.note(self.incident(event.kind, event.message, event.action, steps_lost=event.steps_lost))

    def incident(self, kind: str, message: str, action: str, steps_lost: int = 0) -> Incident:
        """Return an incident of here and now."""
        return Incident(
            kind=kind,
            epoch=self.epoch,
            step=self.step,
            batch=self.batch,
            message=message,
            action=action,
            steps_lost=steps_lost,
        )

    def fault(self, place: str, trace: str) -> None:
        """Log and record a fault of the plugin; the recorder itself may be what is broken."""
        adapter.complain(f"internal error, training goes on: could not {place}\n{trace}")
        last = trace.strip().splitlines()[-1]
        if self._recorder:
            try:
                incident = self.incident("internal_error", f"could not {place}: {last}", "logged; training goes on")
                self._recorder.incident(incident)
            except Exception as error:
                adapter.warn(f"the fault could not be recorded either: {error}")
