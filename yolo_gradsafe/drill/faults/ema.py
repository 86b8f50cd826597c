"""Faults of the averaged model, which is what is validated and saved."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Edit

__all__ = ["InfEMABuffer", "NaNEMAWeight"]


class NaNEMAWeight(Edit):
    """One weight of the averaged model becomes NaN."""

    place: ClassVar[str] = "ema"

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the first convolution."""
        weight = next(m for m in target.ema.modules() if isinstance(m, nn.Conv2d)).weight
        self.spoil_one(weight, float("nan"))
        return True


class InfEMABuffer(Edit):
    """One running variance of the averaged model becomes infinite."""

    place: ClassVar[str] = "ema"

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the first batch normalisation."""
        buffer = next(m for m in target.ema.modules() if isinstance(m, nn.BatchNorm2d)).get_buffer("running_var")
        self.spoil_one(buffer, float("inf"))
        return True
