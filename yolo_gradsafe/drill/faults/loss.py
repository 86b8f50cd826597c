"""Faults of the loss alone: the forward pass and the batch-norm statistics are sound."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Fault, Undo, change_output

__all__ = ["HugeLoss", "InfLoss", "LossSpike", "NaNLoss"]


class NaNLoss(Fault):
    """The loss of a batch is NaN, and so are all gradients."""

    place: ClassVar[str] = "loss"
    factor: ClassVar[float] = float("nan")

    def factor_for(self, loss: Tensor) -> Tensor | float:
        """Return what the loss is multiplied with."""
        return self.factor

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo:
        """Change the loss that the model returns, and what is logged of it."""

        def harm(output: Any) -> Any:
            self.fired += 1
            loss, items = output
            factor = self.factor_for(loss.detach())
            if isinstance(items, dict):
                return loss * factor, {name: item * factor for name, item in items.items()}
            return loss * factor, items * factor

        return change_output(target.called, harm)


class InfLoss(NaNLoss):
    """The loss of a batch is infinite."""

    factor: ClassVar[float] = float("inf")


class HugeLoss(NaNLoss):
    """The loss of a batch is 1e30: finite, but no norm of its gradients is in float32."""

    def factor_for(self, loss: Tensor) -> Tensor | float:
        """Return what the loss is multiplied with."""
        return 1e30 / loss.sum()


class LossSpike(NaNLoss):
    """The loss of a batch is 10,000 times what it should be."""

    factor: ClassVar[float] = 1e4
