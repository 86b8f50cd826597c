"""Faults of the GradScaler."""

from __future__ import annotations

from typing import Any, ClassVar

from yolo_gradsafe.drill.faults.base import Edit
from yolo_gradsafe.port.injection import Patient

__all__ = ["InfScale", "ZeroScale"]


class ZeroScale(Edit):
    """The loss scale becomes 0, where a long row of overflows drives it."""

    place: ClassVar[str] = "scaler"
    value: ClassVar[float] = 0.0

    def edit(self, patient: Patient, batch: dict[str, Any]) -> bool:
        """Write into the scale."""
        if patient.scale is None:
            return False
        patient.scale.fill_(self.value)
        return True


class InfScale(ZeroScale):
    """The loss scale becomes infinite, where a long row of growths drives it."""

    value: ClassVar[float] = float("inf")
