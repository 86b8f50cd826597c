"""The link from a bad step to its culprit: what is looked into, and what of it goes into the incident."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.error_boundary import ErrorBoundary
from yolo_gradsafe.forensics.culprit import Culprit
from yolo_gradsafe.forensics.evidence import Saved
from yolo_gradsafe.forensics.investigator import FaultInvestigator
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.incident_log import Journal
from yolo_gradsafe.recovery.events import EventLog
from yolo_gradsafe.recovery.step_record import StepRecord
from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["Inquiry"]


@dataclass(frozen=True)
class _Account:
    """What one rank has to say of a bad batch."""

    finite: bool
    """Whether its own losses were finite."""
    culprit: Culprit | None
    picture: str
    images: list[str]
    seen: str

    @property
    def weight(self) -> int:
        """How much it counts against those of other ranks."""
        named = self.culprit is not None and self.culprit.cause not in ("transient", "unknown")
        return 2 * (not self.finite) + named


class Inquiry:
    """Investigates bad steps and bad micro-batches, and keeps quarantined images out of batches.

    Args:
        host: The trainer.
        investigator: Finds the culprit.
        window: The micro-batches of the step under way.
        journal: Takes the incident of a micro-batch.
        log: Takes what was put into quarantine.
        shield: Catches the plugin's own faults.
    """

    def __init__(
        self,
        host: Host,
        investigator: FaultInvestigator,
        window: AccumulationWindow,
        journal: Journal,
        log: EventLog,
        shield: ErrorBoundary,
    ) -> None:
        self._host = host
        self._investigator = investigator
        self._window = window
        self._journal = journal
        self._log = log
        self._shield = shield

    def open(self, batch: Any) -> None:
        """Keep quarantined images out of a batch that comes from the loader, and note what it is made of."""
        with self._shield("keep images in quarantine"):
            self._investigator.quarantine.apply(batch)
        with self._shield("note a batch's images"):
            self._window.name(batch)

    def step(self, step: StepRecord) -> None:
        """Find out what made a step bad, from its newest batch, and write it into the assessment."""
        sample, found = step.sample, None
        innocent = math.isfinite(sample.loss) and step.verdict is not Verdict.DIVERGING
        # With an innocent newest batch the bad one is an earlier one of the window, and gone, or another rank's.
        if not innocent or (len(self._window.kept) == 1 and sample.losses_finite):
            found = self._investigator.look(
                self._window.content,
                sample.epoch,
                sample.batch,
                sample.amp_scale,
                gradients_bad=sample.losses_finite,
                outlier=step.verdict is Verdict.DIVERGING,
            )
        finite = all(map(math.isfinite, sample.losses))
        rank, told = self._most_telling(found, finite, step.images, step.seen)
        step.images = told.images
        if self._host.ranks.several:
            step.testimony = f"{told.seen} (rank {rank})"
        if (culprit := told.culprit) is not None:
            step.culprit, step.layer, step.term = culprit.sentence(), culprit.layer, culprit.term
            step.picture, step.images = told.picture, list(culprit.images) or told.images

    def micro_batch(self) -> None:
        """Look into a micro-batch that is about to be taken out of its window, and record it."""
        host, number, images = self._host, self._window.newest, list(self._window.batches[-1].images)
        incident = self._journal.incident(
            "isolated",
            f"batch {number}, one of an accumulation window, was not finite",
            "dropped it and kept the rest of the window",
        )
        found = self._investigator.look(
            self._window.content, host.epoch, number, float(host.amp_scale), gradients_bad=True
        )
        rank, told = self._most_telling(found, math.isfinite(float(host.loss)), images, incident.message)
        images = told.images
        if host.ranks.several:
            incident = replace(incident, message=f"{told.seen} (rank {rank})")
        if (culprit := told.culprit) is not None:
            incident = replace(
                incident,
                culprit=culprit.sentence(),
                layer=culprit.layer,
                term=culprit.term,
                picture=told.picture,
            )
            images = list(culprit.images) or images
        self._journal.note(replace(incident, images=images))

    def _most_telling(
        self, found: tuple[Culprit, Saved] | None, finite: bool, images: list[str], seen: str
    ) -> tuple[int, _Account]:
        """Hear what every rank found, count the offences on all, and return the rank that knows best. Collective."""
        culprit, picture = (found[0].record(), found[1].picture) if found else (None, "")
        heard = self._host.ranks.gather([finite, culprit, picture, images, seen])
        accounts = [_Account(f, None if c is None else Culprit.from_record(c), p, i, s) for f, c, p, i, s in heard]
        for account in accounts:
            if account.culprit is not None:
                self._note_quarantine(self._investigator.convict(account.culprit))
        return max(enumerate(accounts), key=lambda entry: (entry[1].weight, -entry[0]))

    def _note_quarantine(self, images: list[str]) -> None:
        if images:
            named = ", ".join(Path(image).name for image in images)
            self._log.tell(
                "quarantine", f"{named} has failed again and again", "left out of later batches; see quarantine.txt"
            )
