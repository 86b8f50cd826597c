"""What the recovery did, in words, until somebody records it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Event", "EventLog"]


@dataclass(frozen=True)
class Event:
    """A remedy that was applied or taken back."""

    kind: str
    message: str
    """One plain sentence: why."""
    action: str
    """One plain sentence: what was done."""
    steps_lost: int = 0


class EventLog:
    """Gathers events."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def tell(self, kind: str, message: str, action: str, steps_lost: int = 0) -> None:
        """Note an event."""
        self._events.append(Event(kind, message, action, steps_lost))

    def take(self) -> list[Event]:
        """Return what was noted since the last call."""
        taken, self._events = self._events, []
        return taken
