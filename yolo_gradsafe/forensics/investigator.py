"""Looks into the bad steps of a training: names the culprit, keeps the evidence, leaves repeat offenders out."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.forensics.culprit import Culprit
from yolo_gradsafe.forensics.diagnose import diagnose
from yolo_gradsafe.forensics.evidence import Evidence, Saved
from yolo_gradsafe.forensics.options import ForensicsOptions
from yolo_gradsafe.forensics.quarantine import Quarantine

__all__ = ["FaultInvestigator"]

_REMEMBERED = 50


class FaultInvestigator:
    """Works on this rank's batches alone; nothing in it is collective.

    Args:
        host: The trainer.
        options: How much is looked into and kept.
    """

    def __init__(self, host: Host, options: ForensicsOptions) -> None:
        self._host = host
        self._options = options
        folder = Path(host.run) / "stability"
        self._evidence = Evidence(
            folder / "batches", options.pictures, options.archive, host.epochs_done if host.resumed else 0, host.rank
        )
        self.quarantine = Quarantine(folder / "quarantine.txt" if host.is_main else None, max(options.quarantine, 1))
        self._usual: dict[str, deque[float]] = {}
        self._looked = 0

    def observe(self, items: Mapping[str, float]) -> None:
        """Remember the loss items of a healthy step, to know an outlier by."""
        for name, value in items.items():
            if math.isfinite(value):
                self._usual.setdefault(name, deque(maxlen=_REMEMBERED)).append(value)

    def look(
        self, batch: Any, epoch: int, number: int, amp_scale: float, gradients_bad: bool, outlier: bool = False
    ) -> tuple[Culprit, Saved] | None:
        """Look into a bad batch, before anything is put back. Slow; leaves no trace in the training.

        Args:
            batch: The preprocessed batch.
            epoch: Epoch, from 1.
            number: Batch of the epoch, from 1.
            amp_scale: Loss scale of the step.
            gradients_bad: Whether gradients were not finite although the loss was.
            outlier: Whether everything was finite and the loss far out of its range.

        Returns:
            The culprit and what was kept; None where enough was looked into.
        """
        if batch is None or self._looked >= self._options.diagnoses:
            return None
        self._looked += 1
        host = self._host
        culprit = diagnose(
            host.replay(amp_scale),
            batch,
            gradients_bad=gradients_bad,
            outlier=outlier,
            medians={name: statistics.median(values) for name, values in self._usual.items()},
            composite=host.composed(),
            plain=host.plain_batch,
        )
        meta = {"names": list(host.loss_items()[0]), "precision": host.forward_precision, "amp_scale": amp_scale}
        saved = self._evidence.keep(batch, epoch, number, culprit, host.class_names, meta)
        return culprit, saved

    def convict(self, culprit: Culprit) -> list[str]:
        """Count the offences of a diagnosis, of this rank's or of another's, whose images may be this one's next time.

        Returns:
            Images that go into quarantine with it.
        """
        return self.quarantine.report(culprit) if self._options.quarantine else []

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        usual = {name: list(values) for name, values in self._usual.items()}
        return {"looked": self._looked, "usual": usual, "quarantine": self.quarantine.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._looked = int(state["looked"])
        self._usual = {name: deque(map(float, values), _REMEMBERED) for name, values in state["usual"].items()}
        self.quarantine.load_state_dict(state["quarantine"])
