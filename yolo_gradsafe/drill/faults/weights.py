"""Faults of the weights, as a bit flip in memory or a bad write leaves them."""

from __future__ import annotations

from typing import Any, ClassVar

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Edit

__all__ = ["BlownUpLayer", "FlippedWeight", "NaNWeight"]


class NaNWeight(Edit):
    """One weight of the backbone becomes NaN."""

    place: ClassVar[str] = "weights"
    value: ClassVar[float] = float("nan")

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into a layer of the backbone."""
        self.spoil_one(target.backbone_layer.weight, self.value)
        return True


class FlippedWeight(NaNWeight):
    """One weight of the backbone becomes 1e30, as by a flipped bit of its exponent."""

    value: ClassVar[float] = 1e30


class BlownUpLayer(Edit):
    """All weights of a layer that predicts boxes become 10,000 times what they were."""

    place: ClassVar[str] = "weights"

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the layer."""
        target.output_layer.weight.mul_(1e4)
        return True
