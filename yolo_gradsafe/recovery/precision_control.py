"""Carries out what ``PrecisionLadder`` decides, and tells it."""

from __future__ import annotations

from typing import Any

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.precision import PrecisionLadder
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.schema import Kind, Remedy

__all__ = ["PrecisionControl"]


class PrecisionControl:
    """Raises the precision of the forward pass, and takes that back. Its ladder is made when it is first needed.

    Args:
        trainer: The trainer. What precisions it has is known from its first batch on.
        options: ``precision_patience`` and ``precision_hold``.
        incidents: Where to say what was done.
    """

    def __init__(self, trainer: TrainerAdapter, options: RecoveryOptions, incidents: IncidentLog) -> None:
        self._trainer = trainer
        self._options = options
        self._incidents = incidents
        self._ladder: PrecisionLadder | None = None
        self._resumed: dict[str, Any] | None = None

    def resume(self) -> None:
        """Train in the precision that a resumed run had come to; at a batch, when it is known what there is."""
        if self._ladder is None and self._resumed is not None:
            self._made()

    def count_fault(self, step: int) -> bool:
        """Count a step that overflowed in this precision alone; return whether the precision is raised for it."""
        ladder = self._made()
        before = ladder.now
        raised = ladder.count_fault(step)
        if raised:
            self._change(before, ladder.now, Remedy.PRECISION_RAISED)
        return raised

    def count_safe_step(self) -> None:
        """Count a safe step while losses are in their range; the precision may go down again."""
        if self._ladder is None and self._resumed is None:
            return
        ladder = self._made()
        before = ladder.now
        if ladder.count_safe_step():
            self._change(before, ladder.now, Remedy.PRECISION_LOWERED)

    def _made(self) -> PrecisionLadder:
        """Return the ladder; a resumed run's stands where it stood."""
        if self._ladder is None:
            options = self._options
            ladder = PrecisionLadder(self._trainer.precisions(), options.precision_patience, options.precision_hold)
            if self._resumed is not None:
                ladder.load_state_dict(self._resumed)
                self._trainer.set_precision(ladder.now)
            self._ladder = ladder
        return self._ladder

    def _change(self, before: str, now: str, remedy: Remedy) -> None:
        self._trainer.set_precision(now)
        self._incidents.log(Kind.PRECISION, remedies=(remedy,), precision=now, precision_before=before)

    def state_dict(self) -> dict[str, Any] | None:
        """Return where it stands; None where there was no need of it."""
        return self._resumed if self._ladder is None else self._ladder.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from what ``state_dict`` returned."""
        self._resumed = state
        if self._ladder is not None:
            self._ladder = None
            self._trainer.set_precision(self._made().now)
