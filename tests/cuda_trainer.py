"""A guarded trainer of Ultralytics on the simulated device, that is driven batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import ultralytics
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import ModelEMA

from tests.arm import records
from tests.fake_cuda import CUDA, FakeCuda
from yolo_gradsafe import GradSafe, adapter

__all__ = ["OnCuda", "move_trainer", "small_yolo"]

_SMALL = """
scales: {n: [0.50, 0.25, 1024]}
end2end: True
reg_max: 1
nc: 80
kpt_shape: [17, 3]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
head: [[[2, 3], 1, HEAD]]
"""


def small_yolo(folder: Path, pose: bool = False) -> str:
    """Write the YAML of a YOLO with four layers below the head of YOLO26, and return its path.

    A step of it takes a tenth of one of yolo26n here, where every operation passes through Python.
    """
    path = folder / ("small-pose.yaml" if pose else "small.yaml")
    path.write_text(_SMALL.replace("HEAD", "Pose26, [nc, kpt_shape]" if pose else "Detect, [nc]"))
    return str(path)


def move_trainer(device: FakeCuda, trainer: Any, precision: str = "fp32") -> None:
    """Put a trainer that is set up on the device, with what it builds on its device built anew."""
    trainer.device, trainer.amp = CUDA, precision != "fp32"
    device.move(trainer.model.to(memory_format=torch.channels_last))
    trainer.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16", init_scale=1.0)
    trainer.ema = ModelEMA(trainer.model)


class OnCuda:
    """The trainer and its guard.

    Args:
        device: The device.
        model: Model YAML.
        data: ``data.yaml``.
        folder: Where the run's folder is made.
        optimizer: As Ultralytics names it.
        precision: ``fp32``, ``fp16`` (autocast and a GradScaler) or ``bf16``.
        nbs: Images of a step; a batch has four.
        callbacks: Callbacks below the guard's, such as a fault's.
        guarded: Whether there is a guard.
        **options: The guard's.
    """

    def __init__(
        self,
        device: FakeCuda,
        model: str,
        data: Path,
        folder: Path,
        optimizer: str = "SGD",
        precision: str = "fp32",
        nbs: int = 4,
        callbacks: Mapping[str, Callable[[Any], None]] = MappingProxyType({}),
        guarded: bool = True,
        **options: Any,
    ) -> None:
        self.device, self.precision = device, precision
        owner = ultralytics.YOLO(model)
        for event, function in callbacks.items():
            owner.add_callback(event, function)
        off = {"check_data": False, "pictures": 0}
        defaults = {"recovery": {"trust_steps": 2, "snapshot_share": 1.0}, "forensics": off}
        self.guard = GradSafe(**{**defaults, **options}) if guarded else None
        if self.guard is not None:
            self.guard.attach(owner)
        owner.callbacks["on_pretrain_routine_end"].insert(0, self._move)  # before the guard looks at the trainer
        args = {"data": str(data), "imgsz": 64, "batch": 4, "nbs": nbs, "device": "cpu", "workers": 0, "lr0": 1e-3}
        overrides = {**owner.overrides, **args, "model": model, "task": owner.task, "mode": "train", "seed": 0}
        overrides |= {"project": str(folder), "name": "run", "optimizer": optimizer, "plots": False, "exist_ok": True}
        with adapter.without_integrations():
            self.trainer = owner._smart_load("trainer")(overrides=overrides, _callbacks=owner.callbacks)
            self.trainer.run_callbacks("on_pretrain_routine_start")
            self.trainer._setup_train()
        if self.trainer.scaler.is_enabled():
            self.trainer.scaler._lazy_init_scale_growth_tracker(CUDA)
        self.loaded = list(self.trainer.train_loader)
        self.epoch = -1
        self.begin_epoch()

    def _move(self, trainer: Any) -> None:
        move_trainer(self.device, trainer, self.precision)
        trainer.optimizer = trainer.build_optimizer(
            model=trainer.model,
            name=trainer.args.optimizer,
            lr=trainer.args.lr0,
            momentum=trainer.args.momentum,
            decay=trainer.args.weight_decay,
            iterations=100,
        )
        trainer._setup_scheduler()

    @property
    def session(self) -> Any:
        """The guard's session."""
        return self.guard._session(self.trainer)

    @property
    def model(self) -> nn.Module:
        """The live model."""
        return self.trainer.model

    def begin_epoch(self) -> None:
        """Come to the start of an epoch."""
        self.epoch += 1
        self.trainer.epoch = self.epoch
        self.trainer._model_train()
        self.trainer.run_callbacks("on_train_epoch_start")
        self.trainer.tloss = None

    def backward(self, number: int = 0) -> None:
        """Take a batch as far as its gradients, as the training loop does."""
        trainer = self.trainer
        trainer.run_callbacks("on_train_batch_start")
        copied = {k: v.clone() if torch.is_tensor(v) else v for k, v in self.loaded[number % len(self.loaded)].items()}
        with torch.autocast("cuda", _DTYPES.get(self.precision), enabled=self.precision != "fp32"):
            batch = trainer.preprocess_batch(copied)
            loss, trainer.loss_items = trainer.model(batch)
            trainer.loss = loss.sum()
            trainer.tloss = trainer.loss_items
            trainer.loss_names = trainer.loss_names or tuple(trainer.loss_items)
        trainer.scaler.scale(trainer.loss).backward()

    def take(self, *numbers: int) -> None:
        """Take one optimizer step over these batches."""
        for number in numbers:
            self.backward(number)
            if number == numbers[-1]:
                self.trainer.optimizer_step()
            self.trainer.run_callbacks("on_train_batch_end")

    def stock_step(self) -> None:
        """Take the step that the trainer takes without a guard."""
        BaseTrainer.optimizer_step(self.trainer)

    def incidents(self) -> list[dict[str, Any]]:
        """Return what was recorded."""
        self.session.log.incidents.flush()
        return records(self.session._recorder.paths.incidents)

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of weights, buffers, EMA and optimizer state, on the host."""
        live = adapter.TrainerAdapter(self.trainer).state.tensors()
        return {name: getattr(t, "host", t).clone() for name, t in live.items()}

    def close(self) -> None:
        """End the training, as far as the guard is concerned."""
        self.trainer.run_callbacks("teardown")


_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
