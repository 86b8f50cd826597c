"""Faults of the gradients alone: the loss looks well."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Fault, Undo, change_gradient

__all__ = ["HugeGradients", "InfGradient", "NaNGradient"]


class NaNGradient(Fault):
    """The gradient of one weight tensor is NaN all over."""

    place: ClassVar[str] = "gradient"

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo:
        """Change the gradient of a layer of the backbone."""

        def harm(gradient: Tensor) -> Tensor:
            self.fired += 1
            return self.harmed(gradient)

        return change_gradient(target.backbone_layer.weight, harm)

    def harmed(self, gradient: Tensor) -> Tensor:
        """Return the gradient as it is after the harm."""
        return torch.full_like(gradient, float("nan"))


class InfGradient(NaNGradient):
    """One element of one gradient is infinite."""

    def harmed(self, gradient: Tensor) -> Tensor:
        """Return the gradient as it is after the harm."""
        index = self.random.randrange(gradient.numel())
        hit = torch.arange(gradient.numel(), device=gradient.device).view_as(gradient) == index
        return gradient.masked_fill(hit, float("inf"))


class HugeGradients(Fault):
    """All gradients are 1e25 times what they should be: finite, but their norm is not in float32."""

    place: ClassVar[str] = "gradient"

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo:
        """Change every gradient."""
        self.fired += 1
        wanted = [p for p in target.model.parameters() if p.requires_grad]
        undo = [change_gradient(parameter, lambda gradient: gradient * 1e25) for parameter in wanted]

        def end() -> None:
            for take_away in undo:
                take_away()

        return end
