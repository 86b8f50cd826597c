"""Looks into the bad steps of a training: names the culprit, keeps the evidence, leaves repeat offenders out."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.forensics.activations import bad_state
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.diagnose import Cap, diagnose
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.kept_batches import KeptBatches
from yolo_gradsafe.forensics.options import ForensicsOptions
from yolo_gradsafe.forensics.quarantine import Quarantine
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.judge.verdict import BatchNormHealth, StepMetrics
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.schema import Cause, Incident, Kind, Place, Remedy, Verdict
from yolo_gradsafe.telemetry.sentences import culprit

__all__ = ["FaultInvestigator", "place_of"]

_REMEMBERED = 50
_NAMED = 10
_MAY_PASS = (Cause.PRECISION, Cause.TRANSIENT, Cause.UNKNOWN)
"""Causes that the next step of a row need not share."""


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
        self._kept = KeptBatches(folder / "batches", options.pictures, options.archive, trainer.rank)
        self.quarantine = Quarantine(folder / "quarantine.txt" if trainer.is_main else None, max(options.quarantine, 1))
        self._usual: dict[str, deque[float]] = {}
        self._sound: set[str] = set()
        self._looked = self._transients = 0
        self._cause = Cause.UNKNOWN

    def start(self) -> None:
        """Remove the evidence of an earlier run, or of epochs that a resumed run trains once more."""
        self._kept.remove_after(self._trainer.epochs_done if self._trainer.resumed else 0)

    def observe(self, items: Mapping[str, float]) -> None:
        """Remember the loss items of a healthy step, to know an outlier by, and which suspects it was made of."""
        if suspects := self.quarantine.suspects:
            self._sound |= suspects.intersection(name for batch in self._window.kept for name in batch.images)
        self.quarantine.count_healthy_step()
        for name, value in items.items():
            if math.isfinite(value):
                self._usual.setdefault(name, deque(maxlen=_REMEMBERED)).append(value)

    def forget(self) -> None:
        """Forget the last cause: the model is another one."""
        self._cause = Cause.UNKNOWN

    def step(self, metrics: StepMetrics, verdict: Verdict, around: Surroundings, row: int) -> dict[str, Any]:
        """Find out what made a step bad, from its newest batch, before anything is put back. Slow; collective.

        Args:
            metrics: The step.
            verdict: Its verdict.
            around: What is known of the weights and the losses before.
            row: Bad steps in a row, this one included; in a long row it is looked into only now and then.

        Returns:
            Fields of its ``Incident``, as the rank that knows best has them; the same on every rank.
        """
        found, picture, cause = None, "", Cause.UNKNOWN
        # With an innocent newest batch the bad one is an earlier one of the window, and gone, or another rank's.
        innocent = math.isfinite(metrics.loss) and verdict is not Verdict.DIVERGING
        own = not innocent or (len(self._window.kept) == 1 and metrics.losses_finite)
        if not 0 < metrics.amp_scale < math.inf:  # no batch passes with that, and any does without
            cause = Cause.TRANSIENT
        elif own and self._looked < self._options.diagnoses:
            outlier = verdict is Verdict.DIVERGING
            found, picture = self._look(around, metrics.losses_finite, outlier, metrics.amp_scale)
        elif row & (row - 1) == 0 or self._cause in _MAY_PASS:
            found = self._look_briefly(around, metrics, own)
        else:
            cause = self._cause
        if found is not None and found.cause is Cause.TRANSIENT and place_of(metrics, verdict) is Place.BATCHNORM:
            found = self._bad_statistics(found)
        facts = {**seen(metrics, verdict), "images": self._window.images(metrics.losses), "cause": cause}
        facts = self._most_telling(found, picture, all(map(math.isfinite, metrics.losses)), facts)
        self._cause = facts["cause"]
        if self._cause is Cause.TRANSIENT:
            self._transients += 1
            facts["repeats"] = self._transients
            facts["culprit"] = culprit(Incident(Kind.BAD_BATCH, **facts))
        return facts

    def micro_batch(self) -> None:
        """Look into a micro-batch that is about to be taken out of its window, and log it. Slow; collective."""
        loss, found, picture = float(self._trainer.loss), None, ""
        if self._looked < self._options.diagnoses:
            scale = float(self._trainer.amp_scale)
            found, picture = self._look(Surroundings(), gradients_bad=True, outlier=False, amp_scale=scale)
        facts = {"place": Place.WINDOW, "loss": loss, "images": list(self._window.batches[-1].images)}
        facts = self._most_telling(found, picture, math.isfinite(loss), {**facts, "cause": Cause.UNKNOWN})
        facts |= {"batch": self._window.newest, "remedies": (Remedy.MICRO_BATCH_DROPPED,)}
        self._incidents.log(Kind.ISOLATED, **facts)

    def _look(
        self, around: Surroundings, gradients_bad: bool, outlier: bool, amp_scale: float
    ) -> tuple[Diagnosis | None, str]:
        """Look into the batch under way, on this rank, and keep a picture. Slow; leaves no trace in the training.

        Args:
            around: What is known of the weights and the losses before.
            gradients_bad: Whether gradients were not finite although the loss was.
            outlier: Whether everything was finite and the loss far out of its range.
            amp_scale: Loss scale of the step.

        Returns:
            The diagnosis, None without a batch; and the picture, relative to the run's folder.
        """
        batch, trainer = self._window.content, self._trainer
        if batch is None:
            return None, ""
        self._looked += 1
        found = diagnose(
            trainer.replay(amp_scale),
            batch,
            gradients_bad=gradients_bad,
            outlier=outlier,
            around=self._around(around),
        )
        meta = {
            "names": list(trainer.loss_items()[0]),
            "precision": trainer.forward_precision,
            "amp_scale": amp_scale,
        }
        saved = self._kept.keep(batch, trainer.epoch, self._window.newest, found, trainer.class_names, meta)
        return found, saved.picture

    def _look_briefly(self, around: Surroundings, metrics: StepMetrics, own: bool) -> Diagnosis | None:
        """Find the cause alone; of an innocent batch only whether it fails as well, for the precision."""
        batch = self._window.content
        if batch is None:
            return None
        found = diagnose(
            self._trainer.replay(metrics.amp_scale),
            batch,
            gradients_bad=metrics.losses_finite,
            around=self._around(around),
            cap=Cap(thorough=False),
        )
        if not own and found.cause is Cause.TRANSIENT:
            return None
        return found

    def _bad_statistics(self, found: Diagnosis) -> Diagnosis:
        """Name the batch-norm statistics that are not finite: a batch that does not use them passes."""
        bad = bad_state(self._trainer.model, self._trainer.state.unbounded, statistics=True)
        return found.blaming_weights(bad) if bad else found

    def _around(self, known: Surroundings) -> Surroundings:
        """Add what the window and the trainer know of the batch under way."""
        trainer, batch = self._trainer, self._window.batches[-1]
        return replace(
            known,
            loaded=self._window.loaded,
            preprocess=trainer.preprocess,
            hook=trainer.preprocess_hook(),
            composite=trainer.composed(),
            plain=trainer.plain_batch,
            others=lambda: trainer.other_batch(batch.images),
            medians={name: statistics.median(values) for name, values in self._usual.items()},
        )

    def _most_telling(
        self, found: Diagnosis | None, picture: str, finite: bool, facts: dict[str, Any]
    ) -> dict[str, Any]:
        """Hear what every rank found, count the offences on all, and return the facts of the rank that knows best."""
        ranks = self._trainer.ranks
        record = None if found is None else found.record()
        accounts = ranks.gather_objects([finite, record, picture, facts, sorted(self._sound)])
        diagnoses = [None if record is None else Diagnosis.from_record(record) for _, record, *_ in accounts]
        for *_, sound in accounts:
            self.quarantine.acquit(sound)
        self._sound.clear()
        for diagnosis in diagnoses:
            if diagnosis is not None:
                self._count_offences(diagnosis)

        def weight(rank: int) -> tuple[int, int]:
            one = diagnoses[rank]
            return 2 * (not accounts[rank][0]) + (one is not None and one.names_something), -rank

        rank = max(range(len(accounts)), key=weight)
        *_, picture, told, _ = accounts[rank]
        told |= {"place": Place(told["place"]), "cause": Cause(told["cause"]), "picture": picture}
        if ranks.several:
            told["rank"] = rank
        best = diagnoses[rank]
        return told if best is None else {**told, **best.facts(), "culprit": best.sentence()}

    def _count_offences(self, found: Diagnosis) -> None:
        """Count the offences of a diagnosis, of this rank's or of another's, whose images may be this one's next."""
        quarantined = self.quarantine.record_offence(found) if self._options.quarantine else []
        if quarantined:
            self._incidents.log(Kind.QUARANTINE, remedies=(Remedy.QUARANTINED,), images=quarantined)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        usual = {name: list(values) for name, values in self._usual.items()}
        return {
            "looked": self._looked,
            "transients": self._transients,
            "usual": usual,
            "sound": sorted(self._sound),
            "quarantine": self.quarantine.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._looked, self._transients = int(state["looked"]), int(state.get("transients", 0))
        self._usual = {name: deque(map(float, values), _REMEMBERED) for name, values in state["usual"].items()}
        self._sound = set(map(str, state.get("sound", ())))
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
