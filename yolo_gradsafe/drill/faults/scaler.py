"""Faults of the GradScaler."""

from __future__ import annotations

from typing import Any, ClassVar

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Edit

__all__ = ["InfScale", "ZeroScale"]


class ZeroScale(Edit):
    """The loss scale becomes 0, where a long row of overflows drives it."""

    place: ClassVar[str] = "scaler"
    value: ClassVar[float] = 0.0

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the scale."""
        if target.scale is None:
            return False
        target.scale.fill_(self.value)
        return True


class InfScale(ZeroScale):
    """The loss scale becomes infinite, where a long row of growths drives it."""

    value: ClassVar[float] = float("inf")
