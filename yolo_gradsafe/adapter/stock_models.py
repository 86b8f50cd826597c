"""Ultralytics' own model classes, and a model from a file made ready to compute its training loss without a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from ultralytics import RTDETR, YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

__all__ = ["RTDETR", "YOLO", "load_for_loss"]


def load_for_loss(weights: str, device: str = "cpu") -> nn.Module:
    """Load a model with Ultralytics' own loader, in fp32 and in training mode, with the loss gains it was trained with.

    What a run saves is the average of its weights (EMA) in half precision: close to the live ones, not equal.

    Args:
        weights: A checkpoint or a model YAML, as Ultralytics names them.
        device: Device to put it on.

    Raises:
        ValueError: They cannot be loaded; the message says why.
    """
    try:
        wrapper: Any = RTDETR(weights) if "rtdetr" in Path(weights).stem.lower() else YOLO(weights)
    except Exception as error:  # Ultralytics looks for a missing file in the net, and unpickles what it finds
        raise ValueError(f"{weights} cannot be loaded: {type(error).__name__}: {error}") from error
    model: nn.Module = wrapper.model
    trained = (wrapper.ckpt or {}).get("train_args", {})
    known: Any = model
    known.args = get_cfg(overrides={key: value for key, value in trained.items() if key in DEFAULT_CFG_DICT})
    known.criterion = None
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model.to(device).float().train()
