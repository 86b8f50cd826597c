"""Looks into the bad steps of a training: names the culprit, keeps the evidence, leaves repeat offenders out."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.forensics.culprit import Culprit
from yolo_gradsafe.forensics.diagnose import diagnose
from yolo_gradsafe.forensics.evidence import Evidence, Saved
from yolo_gradsafe.forensics.options import ForensicsOptions
from yolo_gradsafe.forensics.quarantine import Quarantine
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.judge.verdict import BatchNormHealth, StepMetrics
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.schema import Kind, Place, Remedy, Verdict

__all__ = ["FaultInvestigator", "place_of"]

_REMEMBERED = 50
_NAMED = 10


class FaultInvestigator:
    """Investigates bad steps and bad micro-batches, and keeps quarantined images out of batches.

    Args:
        trainer: The trainer.
        options: How much is looked into and kept.
        window: The micro-batches of the step under way.
        incidents: Where to say what was found of a micro-batch, and which images are in quarantine.
    """

    def __init__(
        self,
        trainer: TrainerAdapter,
        options: ForensicsOptions,
        window: AccumulationWindow,
        incidents: IncidentLog,
    ) -> None:
        self._trainer = trainer
        self._options = options
        self._window = window
        self._incidents = incidents
        folder = Path(trainer.run) / "stability"
        self._evidence = Evidence(folder / "batches", options.pictures, options.archive, trainer.rank)
        self.quarantine = Quarantine(folder / "quarantine.txt" if trainer.is_main else None, max(options.quarantine, 1))
        self._usual: dict[str, deque[float]] = {}
        self._looked = 0

    def start(self) -> None:
        """Remove the evidence of an earlier run, or of epochs that a resumed run trains once more."""
        self._evidence.remove_after(self._trainer.epochs_done if self._trainer.resumed else 0)

    def observe(self, items: Mapping[str, float]) -> None:
        """Remember the loss items of a healthy step, to know an outlier by."""
        for name, value in items.items():
            if math.isfinite(value):
                self._usual.setdefault(name, deque(maxlen=_REMEMBERED)).append(value)

    def step(self, metrics: StepMetrics, verdict: Verdict) -> dict[str, Any]:
        """Find out what made a step bad, from its newest batch, before anything is put back. Slow; collective.

        Args:
            metrics: The step.
            verdict: Its verdict.

        Returns:
            Fields of its ``Incident``, as the rank that knows best has them.
        """
        found = None
        innocent = math.isfinite(metrics.loss) and verdict is not Verdict.DIVERGING
        # With an innocent newest batch the bad one is an earlier one of the window, and gone, or another rank's.
        if not innocent or (len(self._window.kept) == 1 and metrics.losses_finite):
            found = self._look(metrics.losses_finite, verdict is Verdict.DIVERGING, metrics.amp_scale)
        facts = {
            **seen(metrics, verdict),
            "images": self._window.images(metrics.losses),
        }
        return self._most_telling(found, all(map(math.isfinite, metrics.losses)), facts)

    def micro_batch(self) -> None:
        """Look into a micro-batch that is about to be taken out of its window, and log it. Slow; collective."""
        trainer, loss = self._trainer, float(self._trainer.loss)
        found = self._look(gradients_bad=True, outlier=False, amp_scale=float(trainer.amp_scale))
        facts = {"place": Place.WINDOW, "loss": loss, "images": list(self._window.batches[-1].images)}
        facts = self._most_telling(found, math.isfinite(loss), facts)
        self._incidents.log(
            Kind.ISOLATED, remedies=(Remedy.MICRO_BATCH_DROPPED,), **{**facts, "batch": self._window.newest}
        )

    def _look(self, gradients_bad: bool, outlier: bool, amp_scale: float) -> tuple[Culprit, Saved] | None:
        """Look into the batch under way, on this rank. Slow; leaves no trace in the training.

        Args:
            gradients_bad: Whether gradients were not finite although the loss was.
            outlier: Whether everything was finite and the loss far out of its range.
            amp_scale: Loss scale of the step.

        Returns:
            The culprit and what was kept; None where enough was looked into.
        """
        batch, trainer = self._window.content, self._trainer
        if batch is None or self._looked >= self._options.diagnoses:
            return None
        self._looked += 1
        culprit = diagnose(
            trainer.replay(amp_scale),
            batch,
            gradients_bad=gradients_bad,
            outlier=outlier,
            medians={name: statistics.median(values) for name, values in self._usual.items()},
            composite=trainer.composed(),
            plain=trainer.plain_batch,
        )
        meta = {
            "names": list(trainer.loss_items()[0]),
            "precision": trainer.forward_precision,
            "amp_scale": amp_scale,
        }
        saved = self._evidence.keep(batch, trainer.epoch, self._window.newest, culprit, trainer.class_names, meta)
        return culprit, saved

    def _most_telling(self, found: tuple[Culprit, Saved] | None, finite: bool, facts: dict[str, Any]) -> dict[str, Any]:
        """Hear what every rank found, count the offences on all, and return the facts of the rank that knows best."""
        ranks = self._trainer.ranks
        culprit, picture = (found[0].record(), found[1].picture) if found else (None, "")
        accounts = ranks.gather_objects([finite, culprit, {**facts, "picture": picture}])
        for _, record, _ in accounts:
            if record is not None:
                self._count_offences(Culprit.from_record(record))
        rank, (_, record, facts) = max(enumerate(accounts), key=lambda entry: (_weight(*entry[1][:2]), -entry[0]))
        facts["place"] = Place(facts["place"])
        if ranks.several:
            facts["rank"] = rank
        if record is not None:
            named = Culprit.from_record(record)
            facts |= {"culprit": named.sentence(), "layer": named.layer, "term": named.term}
            facts["images"] = list(named.images) or facts["images"]
        return facts

    def _count_offences(self, culprit: Culprit) -> None:
        """Count the offences of a diagnosis, of this rank's or of another's, whose images may be this one's next."""
        quarantined = self.quarantine.record_offence(culprit) if self._options.quarantine else []
        if quarantined:
            self._incidents.log(Kind.QUARANTINE, remedies=(Remedy.QUARANTINED,), images=quarantined)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        usual = {name: list(values) for name, values in self._usual.items()}
        return {"looked": self._looked, "usual": usual, "quarantine": self.quarantine.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._looked = int(state["looked"])
        self._usual = {name: deque(map(float, values), _REMEMBERED) for name, values in state["usual"].items()}
        self.quarantine.load_state_dict(state["quarantine"])


def place_of(metrics: StepMetrics, verdict: Verdict) -> Place:
    """Say where a bad step was seen to be bad, on this rank."""
    if verdict is Verdict.POISONED:
        return Place.BATCHNORM if metrics.finite else Place.STATE
    if metrics.finite and metrics.batchnorm is not BatchNormHealth.SOUND:
        return Place.BATCHNORM
    if verdict is Verdict.DIVERGING or not math.isfinite(metrics.loss):
        return Place.LOSS
    return Place.GRADIENTS if metrics.losses_finite else Place.WINDOW


def seen(metrics: StepMetrics, verdict: Verdict) -> dict[str, Any]:
    """Return the measured fields of a step's ``Incident``."""
    return {
        "place": place_of(metrics, verdict),
        "loss": metrics.loss,
        "items": metrics.items,
        "grad_norm": metrics.grad_norm,
        "amp_scale": metrics.amp_scale,
        "tensors": list(metrics.bad_tensors[:_NAMED]),
        "tensor_count": len(metrics.bad_tensors),
    }


def _weight(finite: bool, culprit: Mapping[str, Any] | None) -> int:
    """Return how much a rank's account counts against those of other ranks."""
    named = culprit is not None and culprit.get("cause") not in ("transient", "unknown")
    return 2 * (not finite) + named
