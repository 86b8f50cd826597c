"""A stock trainer that stands still after its first step, to be struck by one fault after the other."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import Tensor

from tests.arm import DETECT
from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults import Fault

__all__ = ["Seen", "Standing"]


@dataclass
class Seen:
    """What a batch came to."""

    target: FaultTarget
    batch: dict[str, Any]
    losses: Tensor
    items: list[float]
    gradients: list[Tensor]
    """As they are in ``.grad``, scaled by the GradScaler."""
    rates: list[float]
    state: dict[str, dict[str, Tensor]]
    """A copy of the state after the backward pass, before a step."""

    @property
    def norm(self) -> float:
        """Largest absolute value of a gradient, nan if there is one."""
        return max((float(g.abs().max()) for g in self.gradients), key=lambda v: (v != v, v))

    def bad(self, part: str) -> int:
        """Count the non-finite elements of a part of the state."""
        return sum(int((~t.isfinite()).sum()) for t in self.state[part].values())


class Standing:
    """The trainer."""

    def __init__(self, data: Path, folder: Path) -> None:
        owner = ultralytics.YOLO(DETECT)
        args = {"data": str(data), "imgsz": 64, "batch": 4, "nbs": 4, "device": "cpu", "workers": 0, "lr0": 0.001}
        args |= {"project": str(folder), "name": "train", "optimizer": "AdamW", "plots": False, "epochs": 1}
        overrides = {**owner.overrides, **args, "model": DETECT, "task": "detect", "mode": "train"}
        self.trainer = owner._smart_load("trainer")(overrides=overrides, _callbacks=owner.callbacks)
        self.trainer._setup_train()
        self.trainer.epoch = 0
        self.trainer.scaler = torch.amp.GradScaler("cpu")
        self.trainer._model_train()
        self._raw = next(iter(self.trainer.train_loader))
        self.target = FaultTarget(self.trainer)
        self._pass(None)
        self.trainer.optimizer_step()
        self._kept = self._copy()
        self._scaler = copy.deepcopy(self.trainer.scaler.state_dict())

    def struck_by(self, fault: Fault) -> Seen:
        """Take one batch up to the optimizer step, with a fault, and put everything back."""
        fault.callbacks["on_pretrain_routine_start"](self.trainer)
        fault.callbacks["on_train_epoch_start"](self.trainer)
        try:
            return self._pass(fault)
        finally:
            del self.trainer.preprocess_batch
            self.trainer.optimizer.zero_grad()
            with torch.no_grad():
                for part, tensors in self.target.state().items():
                    for name, tensor in tensors.items():
                        tensor.copy_(self._kept[part][name])
            self.target.scale.fill_(self._scaler["scale"])

    def traces(self) -> int:
        """Count the hooks that are left."""
        model = self.target.model
        hooks = [m._forward_hooks for m in model.modules()] + [p._backward_hooks or {} for p in model.parameters()]
        return sum(map(len, hooks))

    def _pass(self, fault: Fault | None) -> Seen:
        trainer = self.trainer
        batch = trainer.preprocess_batch({k: v.clone() if torch.is_tensor(v) else v for k, v in self._raw.items()})
        losses, items = trainer.model(batch)
        trainer.scaler.scale(losses.sum()).backward()
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        gradients = [p.grad.clone() for p in self.target.model.parameters() if p.grad is not None]
        seen = Seen(
            self.target,
            batch,
            losses.detach(),
            [float(v) for v in (items.values() if isinstance(items, dict) else items)],
            gradients,
            rates,
            self._copy(),
        )
        if fault:
            fault.callbacks["on_train_batch_end"](trainer)
        return seen

    def _copy(self) -> dict[str, dict[str, Tensor]]:
        return {part: {n: t.clone() for n, t in tensors.items()} for part, tensors in self.target.state().items()}
