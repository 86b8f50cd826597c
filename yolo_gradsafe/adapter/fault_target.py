"""A trainer as a fault gets at it: below whatever callbacks see, between the data and the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.engine import trainer as engine

from yolo_gradsafe.adapter.trainer_info import TrainerInfo

__all__ = ["FaultTarget", "before_forward", "train_in"]


class FaultTarget(TrainerInfo):
    """A trainer whose parts a fault may harm. Nothing of it is kept; each part is looked up when it is asked for.

    Args:
        trainer: A ``BaseTrainer`` under way.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return len(self.trainer.train_loader)

    @property
    def called(self) -> nn.Module:
        """The module that the trainer calls with a batch; it returns the loss, a vector, and the loss items."""
        module: nn.Module = self.trainer.model
        return module

    @property
    def backbone_layer(self) -> nn.Conv2d:
        """A convolution in the middle of the backbone."""
        layers = self.model.get_submodule("model")
        assert isinstance(layers, nn.Sequential)
        depth = len(getattr(self.model, "yaml", {}).get("backbone", ())) or len(layers) // 2
        found = [m for layer in layers[:depth] for m in layer.modules() if isinstance(m, nn.Conv2d)]
        return found[len(found) // 2]

    @property
    def head_layer(self) -> nn.Conv2d:
        """The head's first convolution."""
        layers = self.model.get_submodule("model")
        assert isinstance(layers, nn.Sequential)
        return next(m for m in layers[-1].modules() if isinstance(m, nn.Conv2d))

    @property
    def output_layer(self) -> nn.Conv2d:
        """A convolution that predicts boxes at inference: no batch normalisation is behind it."""
        layers = self.model.get_submodule("model")
        assert isinstance(layers, nn.Sequential)
        head = layers[-1]
        # An end-to-end head has a second branch for the loss alone.
        branches = [getattr(head, name, None) for name in ("one2one_cv2", "cv2")]
        branch = next((b for b in branches if isinstance(b, nn.Module)), head)
        return next(m for m in branch.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)

    @property
    def normalisation(self) -> nn.BatchNorm2d:
        """A batch normalisation in the middle of the model."""
        found = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        return found[len(found) // 2]

    @property
    def ema(self) -> nn.Module:
        """The averaged model, which is what is validated and saved."""
        ema: nn.Module = self.trainer.ema.ema
        return ema

    @property
    def ema_updates(self) -> int:
        """Steps that the averaged model has taken in; Ultralytics saves and loads it with the checkpoint."""
        return int(self.trainer.ema.updates)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        optimizer: torch.optim.Optimizer = self.trainer.optimizer
        return optimizer

    @property
    def scale(self) -> Tensor | None:
        """Loss scale of the GradScaler, 0-d, as it lives; None without one and before its first use."""
        scale: Tensor | None = getattr(self.trainer.scaler, "_scale", None)
        return scale

    @property
    def accuracy(self) -> float:
        """MAP50 of the boxes at the newest validation, 0 to 1; nan before the first."""
        return float((self.trainer.metrics or {}).get("metrics/mAP50(B)", float("nan")))

    @property
    def best(self) -> Any:
        """Where ``best.pt`` goes."""
        return self.trainer.best

    @property
    def last(self) -> Any:
        """Where ``last.pt`` goes."""
        return self.trainer.last

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the float tensors of the training state by part and name, as they live."""
        optimizer = {
            f"{index}.{key}": value
            for index, state in enumerate(self.optimizer.state.values())
            for key, value in state.items()
            if isinstance(value, Tensor)
        }
        parts: dict[str, dict[str, Tensor]] = {
            "weights": dict(self.model.named_parameters()),
            "buffers": dict(self.model.named_buffers()),
            "ema": dict(self.ema.state_dict()),
            "optimizer": optimizer,
        }
        return {
            part: {name: t.detach() for name, t in tensors.items() if t.is_floating_point()}
            for part, tensors in parts.items()
        }


def before_forward(trainer: Any, action: Callable[[Any, Any], None]) -> None:
    """Call ``action`` with the trainer and every batch it trains on, right before the forward pass.

    Args:
        trainer: A trainer; at ``on_pretrain_routine_start``, so that it lies below what others put around batches.
        action: May change the batch's tensors, and all of the trainer.
    """
    preprocess = trainer.preprocess_batch

    def preprocess_batch(batch: Any) -> Any:
        batch = preprocess(batch)
        action(trainer, batch)
        return batch

    trainer.preprocess_batch = preprocess_batch


def train_in(precision: str, device: str) -> tuple[dict[str, Any], dict[str, Callable[[Any], None]]]:
    """Return the training arguments and callbacks that make trainings of this process use a precision.

    On CUDA they are Ultralytics' own. On the CPU, where it trains in float32 alone, its autocast is replaced in this
    process and a GradScaler is put in, so that the very same code paths run.

    Args:
        precision: ``fp32``, ``bf16``, ``fp16`` (with a GradScaler), or ``scaler`` (float32 with a GradScaler).
        device: ``cpu``, or a GPU.
    """
    if device != "cpu" and precision != "scaler":
        return {"amp": {"fp32": False, "fp16": True, "bf16": "bf16"}[precision]}, {}
    kind = "cpu" if device == "cpu" else "cuda"
    if precision in {"bf16", "fp16"}:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        engine.autocast = lambda *_, **__: torch.autocast(kind, dtype=dtype)

    def put_scaler(trainer: Any) -> None:
        trainer.scaler = torch.amp.GradScaler(kind)

    return {"amp": False}, {"on_pretrain_routine_end": put_scaler} if precision in {"fp16", "scaler"} else {}
