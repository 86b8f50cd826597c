"""Puts the lines of ``incidents.jsonl`` together: what happened in a step, and what was done about it, is one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from yolo_gradsafe.report.parts import IncidentEntry

__all__ = ["IncidentGroup", "incident_groups", "troubles"]

REMEDIES = {"healed", "isolated", "lr_backoff", "no_snapshots", "precision", "quarantine", "rollback", "stop"}
"""Kinds that follow from another one in the same step, or stand alone where that was not a step's."""
GOOD_NEWS = {"lr_ramp", "no_snapshots", "quarantine"}
"""Kinds that are no trouble when they stand alone: a remedy taken back, and book-keeping."""


@dataclass(frozen=True)
class IncidentGroup:
    """Something that happened, with the remedies that were recorded for it."""

    main: IncidentEntry
    remedies: list[IncidentEntry] = field(default_factory=list)

    @property
    def done(self) -> list[IncidentEntry]:
        """The incident itself, and the remedies whose action it does not say in its own words already."""
        said = _words(self.main.action)
        return [self.main, *(remedy for remedy in self.remedies if not _words(remedy.action) <= said)]

    @property
    def is_trouble(self) -> bool:
        """Whether something went wrong, as opposed to having become right again."""
        back = self.main.kind == "precision" and self.main.action.startswith("back to")
        return self.main.kind not in GOOD_NEWS and not back


def incident_groups(incidents: Sequence[IncidentEntry]) -> list[IncidentGroup]:
    """Gather the incidents by step, in order; faults of our own and recoveries of Ultralytics' stand alone."""
    places: dict[tuple[int, int], list[IncidentEntry]] = {}
    for incident in incidents:
        places.setdefault((incident.epoch, incident.step), []).append(incident)
    found = []
    for entries in places.values():
        mains = [entry for entry in entries if entry.kind not in REMEDIES and entry.kind != "lr_ramp"]
        remedies = [entry for entry in entries if entry not in mains]
        if mains:
            found += [IncidentGroup(mains[0], remedies), *map(IncidentGroup, mains[1:])]
        else:
            found.append(IncidentGroup(remedies[0], remedies[1:]))
    return found


def _words(text: str) -> set[str]:
    return {word.strip(".,;()") for word in text.lower().split()}


def troubles(incidents: Sequence[IncidentEntry]) -> int:
    """Count what went wrong."""
    return sum(group.is_trouble for group in incident_groups(incidents))
