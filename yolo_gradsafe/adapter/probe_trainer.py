"""A real trainer, set up as for training but in a folder of its own, and driven batch by batch.

It serves the experiments of ``probe/``. The trainer runs in
fp32: that shows how large numbers are, where fp16 would show only that they are too large.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics import RTDETR, YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils import LOGGER, TQDM
from ultralytics.utils.callbacks.base import get_default_callbacks
from ultralytics.utils.files import increment_path

from yolo_gradsafe.adapter.callbacks import without_integrations
from yolo_gradsafe.adapter.trainer_info import TrainerInfo

__all__ = ["ProbeTrainer", "fresh_folder", "progress", "unchanged"]

FORCED: dict[str, Any] = {
    "mode": "train",
    "name": "probe",
    "exist_ok": True,
    "save": False,
    "val": False,
    "plots": False,
    "verbose": False,
    "resume": False,
    "amp": False,
    "compile": False,
    "workers": 0,
    "deterministic": True,
}
"""Arguments that keep the trainer quiet, repeatable and inside its folder, whatever the user's are."""


class ProbeTrainer(TrainerInfo):
    """A trainer that is ready to train, with the user's data, loss, optimizer, batch and accumulation.

    Its weights are its own: the user's file is read, never written.

    Args:
        model: Weights or model YAML, as Ultralytics names them.
        data: Data set YAML, as Ultralytics names it.
        folder: Where the trainer writes what it cannot be kept from writing.
        seed: Seed of initialisation, order of the images and augmentation.
        arguments: Ultralytics' training arguments; those in ``FORCED`` are overruled.

    Raises:
        SyntaxError: An unknown argument; the message is Ultralytics' own and names similar ones.
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.
    """

    def __init__(self, model: str, data: str, folder: Path, seed: int, arguments: dict[str, Any]) -> None:
        arguments = {**arguments, **FORCED, "data": data, "seed": seed, "project": str(folder)}
        arguments.pop("save_dir", None)
        if str(arguments.get("cache")).lower() == "disk":  # would write files beside the user's images
            arguments["cache"] = False
        if isinstance(device := arguments.get("device"), (list, tuple, str)) and len(devices := _devices(device)) > 1:
            arguments["device"] = devices[0]
        get_cfg(overrides=dict(arguments))
        task = arguments.pop("task", None)
        with _quiet(), without_integrations():
            wrapper = RTDETR(model) if "rtdetr" in Path(model).stem.lower() else YOLO(model, task=task)
            overrides = {**wrapper.overrides, "model": wrapper.overrides["model"], "task": wrapper.task, **arguments}
            callbacks: dict[str, list[Any]] = {event: [] for event in get_default_callbacks()}
            self.trainer = wrapper._smart_load("trainer")(overrides=overrides, _callbacks=callbacks)
            if wrapper.ckpt:
                weights = None if overrides.get("pretrained") is False else wrapper.model
                self.trainer.model = self.trainer.get_model(weights=weights, cfg=wrapper.model.yaml, verbose=False)
            self.trainer._setup_train()
        self.trainer.ema = None
        groups = self.trainer.optimizer.param_groups
        self.lr0 = float(min(group["initial_lr"] for group in groups if group["params"]))
        peak = self._peak()
        self._ratios = [float(group["initial_lr"]) / self.lr0 * peak for group in groups]
        self._weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self._batches = self._endless()

    @property
    def image_size(self) -> int:
        """Side of an image, pixels."""
        return int(self.trainer.args.imgsz)

    @property
    def accumulate(self) -> int:
        """Batches an optimizer step, after warm-up."""
        return int(self.trainer.accumulate)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters in the order in which stock's clip sees them."""
        return list(self.model.parameters())

    def forward(self) -> tuple[Tensor, int]:
        """Run the next batch through model and loss, in training mode.

        Returns:
            The loss as training back-propagates it (summed over the images), 0-d, and the number of images.
        """
        batch = self.trainer.preprocess_batch(next(self._batches))
        loss, _ = self.trainer.model(batch)
        return loss.sum(), len(batch["img"])

    def set_lr(self, lr: float) -> None:
        """Set the learning rates to those of the schedule's peak in a training with this lr0, each group its own."""
        for group, ratio in zip(self.trainer.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = lr * ratio

    def step(self) -> None:
        """Let the optimizer step with the gradients as they are, and drop them."""
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()

    @torch.no_grad()
    def held_out_loss(self, images: int) -> float:
        """Return the mean loss of the first validation images, in whole batches.

        Batch norm takes the statistics of the batch, as in training: the running ones follow too slowly to say
        anything after a few dozen steps. Nothing of the model changes. Synchronises once a batch.

        Args:
            images: Fewest images, where the validation set has as many.
        """
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        total, seen = 0.0, 0
        self.trainer.test_loader.reset()
        for batch in self.trainer.test_loader:
            loss, _ = self.trainer.model(self.trainer.preprocess_batch(batch))
            total, seen = total + float(loss.sum()), seen + len(batch["img"])
            if seen >= images:
                break
        for name, value in self.model.named_buffers():
            value.copy_(buffers[name])
        return total / seen if seen else math.nan

    def reset(self, seed: int) -> None:
        """Go back to the start: weights, empty optimizer, order of the images, and seeds of what is random.

        The same seed gives the same batches again.
        """
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(self._weights[name])
        self.trainer.optimizer.state.clear()
        self.trainer.optimizer.zero_grad()
        self.trainer._model_train()
        self._rewind(seed)
        _seed(seed)

    def _rewind(self, seed: int) -> None:
        loader = self.trainer.train_loader
        loader.reset()
        loader.generator.manual_seed(seed)
        images = loader.dataset
        while getattr(images, "buffer", None):  # images at hand for mosaics, which the batches so far have chosen
            place = images.buffer.pop()
            images.ims[place], images.im_hw0[place], images.im_hw[place] = None, None, None
        self._batches = self._endless()

    def _endless(self) -> Iterator[dict[str, Any]]:
        while True:
            yield from self.trainer.train_loader

    def _peak(self) -> float:
        """Return the largest learning rate of a training over lr0: a short one decays before it has warmed up."""
        warm = max(self.warmup_batches, 1)
        warmed = [min(1.0, (epoch + 1) * self.batches / warm) for epoch in range(self.epochs)]
        return float(max(share * self.trainer.lf(epoch) for epoch, share in enumerate(warmed)))


def fresh_folder(base: Path) -> Path:
    """Make a folder, numbered as Ultralytics numbers its runs where there is one already."""
    return Path(increment_path(base, mkdir=True))


def progress(total: int) -> Any:
    """Return Ultralytics' progress bar for this many batches: ``update(1)``, ``set_description``, ``close``."""
    return TQDM(total=total, desc="probe", unit="batch")


@contextmanager
def unchanged() -> Iterator[None]:
    """Put back, at the end, what a trainer changes in the process: random states, torch's switches, environment."""
    rng = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, switch = torch.backends.cudnn.deterministic, torch.utils.deterministic
    fill = switch.fill_uninitialized_memory  # type: ignore[attr-defined]
    environment, folder, threads = dict(os.environ), Path.cwd(), torch.get_num_threads()
    try:
        yield
    finally:
        random.setstate(rng[0])
        np.random.set_state(rng[1])
        torch.set_rng_state(rng[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic = cudnn
        switch.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.set_num_threads(threads)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        os.chdir(folder)


def _devices(device: list[Any] | tuple[Any, ...] | str) -> list[Any]:
    return [part.strip() for part in device.split(",")] if isinstance(device, str) else list(device)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ultralytics log warnings only, and draw no progress bars."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
