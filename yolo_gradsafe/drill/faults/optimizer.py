"""Faults of the optimizer: its memory of past gradients, and its learning rate."""

from __future__ import annotations

from typing import Any, ClassVar

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Edit, Fault, Undo

__all__ = ["InfSecondMoment", "LearningRateJump", "NaNMomentum"]


class NaNMomentum(Edit):
    """One element of the optimizer's first moment (``momentum_buffer``, ``exp_avg``) becomes NaN."""

    place: ClassVar[str] = "optimizer"
    keys: ClassVar[tuple[str, ...]] = ("momentum_buffer", "exp_avg")
    value: ClassVar[float] = float("nan")

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the state of a layer of the backbone."""
        state = target.optimizer.state.get(target.backbone_layer.weight, {})
        moment = next((state[key] for key in self.keys if state.get(key) is not None), None)
        if moment is None:
            return False
        self.spoil_one(moment, self.value)
        return True


class InfSecondMoment(NaNMomentum):
    """One element of the optimizer's second moment (``exp_avg_sq``) becomes infinite: its weight never moves again."""

    keys: ClassVar[tuple[str, ...]] = ("exp_avg_sq",)
    value: ClassVar[float] = float("inf")


class LearningRateJump(Fault):
    """The learning rate is 1,000 times what it should be."""

    place: ClassVar[str] = "optimizer"
    factor: ClassVar[float] = 1000.0

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo:
        """Change the rate of every group until the batch ends."""
        self.fired += 1
        groups = target.optimizer.param_groups
        before = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= self.factor
        after = [group["lr"] for group in groups]

        def end() -> None:
            for group, right, wrong in zip(groups, before, after, strict=True):
                if group["lr"] == wrong:  # else somebody else has set it meanwhile
                    group["lr"] = right

        return end
