"""Puts the lines of ``incidents.jsonl`` together: what happened in a step, and what was done about it, is one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolo_gradsafe.report.parts import IncidentEntry
from yolo_gradsafe.telemetry.schema import SAID_BY_STEP, Kind, Place, Remedy

__all__ = ["IncidentGroup", "incident_groups", "troubles"]

REMEDIES = {
    Kind.HEALED,
    Kind.ISOLATED,
    Kind.LR_BACKOFF,
    Kind.NO_SNAPSHOTS,
    Kind.PRECISION,
    Kind.QUARANTINE,
    Kind.ROLLBACK,
    Kind.STOP,
}
"""Kinds that follow from another one in the same step, or stand alone where that was not a step's."""
GOOD_NEWS = {Kind.LR_RAMP, Kind.NO_SNAPSHOTS, Kind.QUARANTINE}
"""Kinds that are no trouble when they stand alone: a remedy taken back, and book-keeping."""

SAID: Mapping[Any, Remedy] = {**SAID_BY_STEP, Kind.STOP: Remedy.STOPPED}
"""Kinds of which the incident that they follow from says everything already, where it has the remedy."""


@dataclass(frozen=True)
class IncidentGroup:
    """Something that happened, with the remedies that were recorded for it."""

    main: IncidentEntry
    remedies: list[IncidentEntry] = field(default_factory=list)

    @property
    def done(self) -> list[IncidentEntry]:
        """The incident itself, and the remedies of which it does not say everything already."""
        return [self.main, *(entry for entry in self.remedies if SAID.get(entry.kind) not in self.main.remedies)]

    @property
    def everything(self) -> list[IncidentEntry]:
        """The incident and the remedies."""
        return [self.main, *self.remedies]

    @property
    def cause(self) -> str:
        """Where it came from; empty where it was not looked into."""
        return next((entry.cause for entry in self.everything if entry.cause), "")

    @property
    def images(self) -> list[str]:
        """The images to blame, each once."""
        return list(dict.fromkeys(image for entry in self.everything for image in entry.images))

    @property
    def lowered_rate(self) -> IncidentEntry | None:
        """The entry that says that the learning rate was lowered, and to what; None where it was not."""
        return next((entry for entry in self.everything if entry.lr_factor < 1 and _lowers(entry)), None)

    @property
    def is_trouble(self) -> bool:
        """Whether something went wrong, as opposed to having become right again."""
        back = Remedy.PRECISION_LOWERED in self.main.remedies
        return self.main.kind not in GOOD_NEWS and not back


def incident_groups(incidents: Sequence[IncidentEntry]) -> list[IncidentGroup]:
    """Gather the incidents by step, in order; faults of our own and recoveries of Ultralytics' stand alone.

    What a validation led to has nothing to do with the step before it.
    """
    places: dict[tuple[int, int, bool], list[IncidentEntry]] = {}
    for incident in incidents:
        place = (incident.epoch, incident.step, incident.place == Place.VALIDATION)
        places.setdefault(place, []).append(incident)
    found = []
    for entries in places.values():
        mains = [entry for entry in entries if entry.kind not in REMEDIES and entry.kind != Kind.LR_RAMP]
        remedies = [entry for entry in entries if entry not in mains]
        if mains:
            found += [IncidentGroup(mains[0], remedies), *map(IncidentGroup, mains[1:])]
        else:
            found.append(IncidentGroup(remedies[0], remedies[1:]))
    return found


def _lowers(entry: IncidentEntry) -> bool:
    return entry.kind == Kind.LR_BACKOFF or Remedy.LR_LOWERED in entry.remedies


def troubles(incidents: Sequence[IncidentEntry]) -> int:
    """Count what went wrong."""
    return sum(group.is_trouble for group in incident_groups(incidents))
