"""Faults of the batch-norm statistics: training does not use them, validation and the saved model do."""

from __future__ import annotations

from typing import Any, ClassVar

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Edit

__all__ = ["InfRunningVar", "NaNRunningMean"]


class InfRunningVar(Edit):
    """One running variance becomes infinite."""

    place: ClassVar[str] = "buffers"
    buffer: ClassVar[str] = "running_var"
    value: ClassVar[float] = float("inf")

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into a batch normalisation in the middle of the model."""
        self.spoil_one(target.normalisation.get_buffer(self.buffer), self.value)
        return True


class NaNRunningMean(InfRunningVar):
    """One running mean becomes NaN."""

    buffer: ClassVar[str] = "running_mean"
    value: ClassVar[float] = float("nan")
