"""Faults within whole guarded trainings: those that need optimizer steps, statistics or an accumulation window."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ultralytics import YOLO

from benchmarks.planted.losses import WithTerm
from benchmarks.planted.scene import DETECT, POSE, SIZE, V8, Truth, data_for, marked
from yolo_gradsafe import GradSafe
from yolo_gradsafe.telemetry.schema import Cause, RunPaths

__all__ = ["TRAININGS", "Training", "first_incident"]

GUILTY = "0003.jpg"
LAYER = "model.4.cv1.conv"
BATCH = 2
"""Batch of the first epoch, from 1, at whose start a state is spoilt."""


@dataclass(frozen=True)
class Training:
    """A training with a fault, and its truth; of images the names."""

    name: str
    plant: Callable[[Any], None]
    """Called with the trainer when it is set up."""
    truth: Truth
    images: tuple[str, ...] = ()
    model: str = DETECT
    arguments: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    """Called with the folder of the data set before the training."""


def first_incident(training: Training, folder: Path) -> dict[str, Any]:
    """Train, and return the first incident that names a cause, or else the first one. Takes a quarter of a minute.

    Of an accumulation window that fails for the first time the guilty batch is gone, and its cause not known.
    """
    data = data_for(training.model, folder)
    if training.prepare:
        training.prepare(data.parent)
    owner: Any = YOLO(training.model)
    owner.add_callback("on_pretrain_routine_end", training.plant)
    GradSafe().attach(owner)
    arguments = {
        "batch": 4,
        "nbs": 4,
        "epochs": 2,
        "optimizer": "SGD",
        "lr0": 0.001,
        "warmup_epochs": 0,
        "close_mosaic": 0,
    }
    owner.train(
        data=str(data), imgsz=SIZE, device="cpu", workers=0, amp=False, plots=False, val=False, verbose=False, seed=0,
        mosaic=0.0, project=str(folder / "runs"), name="training", **{**arguments, **training.arguments},
    )  # fmt: skip
    lines = RunPaths(Path(owner.trainer.save_dir)).incidents
    told = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    named = (one for one in told if one["cause"] not in ("", Cause.UNKNOWN))
    return next(named, told[0] if told else {})


# State ---------------------------------------------------------------------------------------------------------------


def _at_batch(trainer: Any, spoil: Callable[[Any], None]) -> None:
    seen = iter(range(1, 1000))

    def strike(trainer: Any) -> None:
        if next(seen) == BATCH:
            spoil(trainer)

    trainer.add_callback("on_train_batch_start", strike)


def _weight(trainer: Any) -> None:
    with torch.no_grad():
        trainer.model.get_submodule(LAYER).weight.view(-1)[0] = math.nan


def _momentum(trainer: Any) -> None:
    weight = trainer.model.get_submodule(LAYER).weight
    trainer.optimizer.state[weight]["momentum_buffer"].view(-1)[0] = math.nan


def _statistics(trainer: Any) -> None:
    trainer.model.get_submodule("model.4.cv1.bn").running_var[0] = math.nan


# Data and loss -------------------------------------------------------------------------------------------------------


def _guilty(file: str) -> bool:
    return file.endswith(GUILTY)


def _term(boxes: Any, scores: Any, batch: Any) -> Any:
    weight = torch.tensor([0.0 if _guilty(file) else 1.0 for file in batch["im_file"]])
    return -(torch.log(weight) * scores.sigmoid().mean((1, 2))).mean() * 0.01  # bad


def _criterion(trainer: Any) -> None:
    trainer.model.criterion = WithTerm(trainer.model.init_criterion(), _term)


def _contrast(batch: Any) -> Any:
    image = batch["img"]
    batch["img"] = (image - image.mean((1, 2, 3), keepdim=True)) / image.std((1, 2, 3), keepdim=True)  # bad
    return batch


def _preprocess(trainer: Any) -> None:
    base = type(trainer)
    own = base.preprocess_batch
    methods = {"preprocess_batch": lambda trainer, batch: _contrast(own(trainer, batch))}
    trainer.__class__ = type("Own", (base,), methods)


def _black(data: Path) -> None:
    """Paint one image black, without augmentation's noise."""
    cv2.imwrite(str(data / "images" / "train" / GUILTY), np.zeros((SIZE, SIZE, 3), np.uint8))


def _keypoint(trainer: Any) -> None:
    data = trainer.train_loader.dataset
    place = next(i for i, file in enumerate(data.im_files) if _guilty(file))
    data.labels[place]["keypoints"][0, 0, 0] = math.nan


class _Transform:
    def __call__(self, labels: Any) -> Any:
        labels["img"] = labels["img"].float()
        if _guilty(labels["im_file"]):
            labels["img"][:, 4, 4] = math.nan
        return labels


def _transform(trainer: Any) -> None:
    trainer.train_loader.dataset.transforms.transforms.append(_Transform())


QUIET = {"translate": 0.0, "scale": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
"""No augmentation that changes a black image."""
PREPROCESSING = partial(Truth, Cause.PREPROCESSING)

TRAININGS = [
    Training("training: NaN weight", partial(_at_batch, spoil=_weight), Truth(Cause.WEIGHTS, layer=LAYER)),
    Training("training: NaN momentum", partial(_at_batch, spoil=_momentum), Truth(Cause.WEIGHTS, layer=LAYER),
             model=V8),
    Training("training: NaN statistics", partial(_at_batch, spoil=_statistics),
             Truth(Cause.WEIGHTS, layer="model.4.cv1.bn")),
    Training("training: own loss", _criterion, Truth(Cause.LOSS, term="own_loss", line=marked(_term)), (GUILTY,)),
    Training("training: own preprocess_batch", _preprocess,
             PREPROCESSING(line=marked(_contrast), stage="preprocess_batch"), (GUILTY,), V8, QUIET, _black),
    Training("training: NaN keypoint", _keypoint, Truth(Cause.LABEL), (GUILTY,), POSE),
    Training("training: own transform", _transform, PREPROCESSING(stage="transforms"), (GUILTY,), V8),
    Training("training: in an accumulation window", _transform, PREPROCESSING(stage="transforms"), (GUILTY,), DETECT,
             {"nbs": 16}),
    Training("training: own loss in an accumulation window", _criterion,
             Truth(Cause.LOSS, term="own_loss", line=marked(_term)), (GUILTY,), V8, {"nbs": 8}),
]  # fmt: skip
