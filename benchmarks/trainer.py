"""A guarded trainer that stands still: all set up, with a batch's gradients, and no loop that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultralytics import RTDETR, YOLO

from yolo_gradsafe import GradSafe, adapter
from yolo_gradsafe.data import draw_detect, draw_pose

__all__ = ["backward", "draw", "owner_of", "set_up"]


def draw(model: str, folder: Path, train: int = 8, val: int = 4, size: int = 64) -> Path:
    """Draw a data set for a model's task and return its ``data.yaml``."""
    task = "pose" if "pose" in model else "detect"
    return (draw_pose if task == "pose" else draw_detect)(folder / "data" / task, train=train, val=val, size=size)


def owner_of(model: str) -> Any:
    """Return the Ultralytics model with this name, with random weights when it is a YAML."""
    return (RTDETR if "rtdetr" in model else YOLO)(model)


def set_up(model: str, optimizer: str, folder: Path, device: str, **options: Any) -> tuple[Any, GradSafe]:
    """Return a trainer that has been through one batch's backward pass, and the guard on it, with these options."""
    guard = GradSafe(**options)
    owner = guard.attach(owner_of(model))
    args = {"data": str(draw(model, folder)), "imgsz": 64, "batch": 4, "nbs": 4, "device": device, "workers": 0}
    overrides = {**owner.overrides, **args, "model": model, "task": owner.task, "mode": "train", "lr0": 1e-6}
    overrides |= {"project": str(folder), "name": f"{Path(model).stem}-{optimizer}", "optimizer": optimizer}
    with adapter.without_integrations():
        trainer = owner._smart_load("trainer")(overrides={**overrides, "plots": False}, _callbacks=owner.callbacks)
        trainer._setup_train()
    trainer.epoch = 0
    trainer._model_train()
    trainer.run_callbacks("on_train_epoch_start")
    backward(trainer)
    return trainer, guard


def backward(trainer: Any) -> None:
    """Start a batch and take it as far as the gradients, as the training loop does."""
    trainer.run_callbacks("on_train_batch_start")
    loss, trainer.loss_items = trainer.model(trainer.preprocess_batch(next(iter(trainer.train_loader))))
    trainer.loss, trainer.tloss = loss.sum(), trainer.loss_items
    if isinstance(trainer.loss_items, dict):
        trainer.loss_names = tuple(trainer.loss_items)
    trainer.scaler.scale(trainer.loss).backward()
