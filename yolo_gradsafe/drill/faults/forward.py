"""Faults of the forward pass: activations that a kernel, a chip or a precision got wrong."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Fault, Undo, change_output

__all__ = ["HalfOverflow", "InfBackbone", "InfHead", "NaNBackbone", "NaNHead"]


class NaNBackbone(Fault):
    """One activation in the backbone is NaN in one forward pass."""

    place: ClassVar[str] = "forward"
    value: ClassVar[float] = float("nan")

    def layer(self, target: FaultTarget) -> nn.Module:
        """Return the layer whose output is harmed."""
        return target.backbone_layer

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo:
        """Write into the layer's next output."""

        def harm(output: Tensor) -> Tensor:
            self.fired += 1
            index = self.random.randrange(output.numel())
            hit = torch.arange(output.numel(), device=output.device).view_as(output) == index
            return output.masked_fill(hit, self.value)

        return change_output(self.layer(target), harm)


class InfBackbone(NaNBackbone):
    """One activation in the backbone is infinite in one forward pass."""

    value: ClassVar[float] = float("inf")


class NaNHead(NaNBackbone):
    """One activation in the head is NaN in one forward pass."""

    def layer(self, target: FaultTarget) -> nn.Module:
        """Return the layer whose output is harmed."""
        return target.head_layer


class InfHead(NaNHead):
    """One activation in the head is infinite in one forward pass."""

    value: ClassVar[float] = float("inf")


class HalfOverflow(Fault):
    """One backbone layer overflows whenever it computes in float16, and is sound in any other precision."""

    place: ClassVar[str] = "forward"

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo:
        """Make the layer's output infinite where it is float16, for as long as the batch lasts."""
        counted = False

        def harm(output: Tensor) -> Tensor:
            nonlocal counted
            if output.dtype is not torch.float16:
                return output
            if not counted:
                counted = True
                self.fired += 1
            hit = torch.arange(output.numel(), device=output.device).view_as(output) == 0
            return output.masked_fill(hit, float("inf"))

        return change_output(target.backbone_layer, harm, once=False)
