"""Real models and real preprocessed batches, made by Ultralytics' own trainers, and faults that are put into them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.utils.torch_utils import unwrap_model

from tests.arm import DETECT, POSE

MODELS = [DETECT, POSE, "yolov8n.yaml"]
IMAGES = 8


@dataclass
class Lab:
    """A trainer that is set up, its live model, and a batch that it would train on."""

    trainer: Any
    model: nn.Module
    batch: dict[str, Any]

    def copy(self) -> dict[str, Any]:
        """Return the batch with tensors of its own."""
        return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in self.batch.items()}

    def with_nan_pixel(self, image: int) -> dict[str, Any]:
        """Return the batch with one NaN in an image."""
        batch = self.copy()
        batch["img"][image, 1, 20, 30] = float("nan")
        return batch


def build(model: str, data: Path, folder: Path, **arguments: Any) -> Lab:
    """Set a trainer up and take its first batch."""
    overrides = {
        "model": model, "data": str(data), "imgsz": 64, "batch": IMAGES, "device": "cpu", "workers": 0, "epochs": 3,
        "plots": False, "amp": False, "project": str(folder), "name": Path(model).stem, "exist_ok": True,
        "verbose": False, "val": False, "seed": 0, "mosaic": 0.0, "optimizer": "SGD", **arguments,
    }  # fmt: skip
    trainer = (PoseTrainer if "pose" in model else DetectionTrainer)(overrides=overrides)
    trainer._setup_train()
    batch = trainer.preprocess_batch(next(iter(trainer.train_loader)))
    live = unwrap_model(trainer.model)
    live.train()
    return Lab(trainer, live, batch)


@contextmanager
def planted(parameter: torch.Tensor, change: Any) -> Iterator[None]:
    """Change a weight in place, and put it back."""
    kept = parameter.detach().clone()
    try:
        with torch.no_grad():
            change(parameter)
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return all that a pass could leave behind, bit for bit."""
    return {
        "state": {name: (t.data_ptr(), _digest(t)) for name, t in model.state_dict(keep_vars=True).items()},
        "buffers": [id(b) for b in model.buffers()],
        "gradients": [None if p.grad is None else (id(p.grad), _digest(p.grad)) for p in model.parameters()],
        "modules": {
            name: {k: v if isinstance(v, (int, float, bool, str)) else id(v) for k, v in vars(module).items()}
            for name, module in model.named_modules()
        },
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "random": (random.getstate(), _digest(torch.get_rng_state()), str(np.random.get_state())),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_grad_enabled()),
    }


def digest_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a batch, bit for bit."""
    return {key: _digest(value) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
