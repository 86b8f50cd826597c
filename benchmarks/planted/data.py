"""Faults of pixels, labels and preprocessing."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.planted.scene import DETECT, OBB, POSE, RT_DETR, SEGMENT, V8, Fault, Scene, Truth, marked
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["FAULTS"]

GUILTY = 5
"""Place of the image to blame."""


# Pixels --------------------------------------------------------------------------------------------------------------


def _nan_in_file(scene: Scene, end: str, places: tuple[int, ...] = (GUILTY,)) -> None:
    """Put images in the batch whose files hold NaN."""
    folder = Path(tempfile.mkdtemp())
    files = list(scene.batch["im_file"])
    scene.loaded["img"] = scene.loaded["img"].float()
    for place in places:
        pixels = scene.loaded["img"][place].permute(1, 2, 0).numpy().copy()
        pixels[3:5, 7] = np.nan
        file = folder / f"{place}{end}"
        if end == ".npy":
            np.save(file, pixels)
        else:
            cv2.imwrite(str(file), pixels)
        files[place] = str(file)
        scene.loaded["img"][place] = torch.from_numpy(pixels).permute(2, 0, 1)
    scene.loaded["im_file"] = tuple(files)
    scene.load_again()


def _unreadable(scene: Scene) -> None:
    """Put an image in the batch that came out as NaN and whose file is cut off."""
    _nan_in_file(scene, ".tiff")
    Path(scene.batch["im_file"][GUILTY]).write_bytes(b"II*\0")


def _file_and_transform(scene: Scene) -> None:
    """Put an image with NaN in its file in the batch, beside one that a transform made so."""
    scene.loaded["img"] = scene.loaded["img"].float()
    scene.loaded["img"][1, 0, 0, 0] = math.nan
    _nan_in_file(scene, ".npy")


def _transform(scene: Scene, places: tuple[int, ...] = (GUILTY,)) -> None:
    """Let the data set's transforms make NaN of a fine file."""
    scene.loaded["img"] = scene.loaded["img"].float()
    for place in places:
        scene.loaded["img"][place, :, 10:12] = math.nan
    scene.load_again()


def _wrapped(scene: Scene, hook: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Give the trainer a class whose ``preprocess_batch`` ends in a hook, as users do."""
    base = type(scene.trainer)
    own = base.preprocess_batch
    methods = {"preprocess_batch": lambda trainer, batch: hook(own(trainer, batch))}
    scene.trainer.__class__ = type("Own", (base,), methods)
    scene.loaded["img"][GUILTY] = 0
    scene.load_again()


def _contrast(batch: dict[str, Any]) -> dict[str, Any]:
    image = batch["img"]
    batch["img"] = (image - image.mean((1, 2, 3), keepdim=True)) / image.std((1, 2, 3), keepdim=True)  # bad
    return batch


def _brightness(batch: dict[str, Any]) -> dict[str, Any]:
    batch["img"] /= batch["img"].amax((1, 2, 3), keepdim=True)  # bad
    return batch


def _logarithm(batch: dict[str, Any]) -> dict[str, Any]:
    batch["img"] = batch["img"] * torch.log(batch["img"].mean((1, 2, 3), keepdim=True))  # bad
    return batch


def _in_numpy(batch: dict[str, Any]) -> dict[str, Any]:
    pixels = batch["img"].numpy()
    with np.errstate(all="ignore"):
        batch["img"] = torch.from_numpy(pixels / pixels.max((1, 2, 3), keepdims=True))
    return batch


def _subclass(scene: Scene) -> None:
    """Give the trainer a class with a ``preprocess_batch`` of its own."""
    base = type(scene.trainer)

    class Own(base):
        def preprocess_batch(self, batch):
            batch = super().preprocess_batch(batch)
            return _brightness(batch)

    scene.trainer.__class__ = Own
    scene.loaded["img"][GUILTY] = 0
    scene.load_again()


def _pixels(name: str, plant: Any, cause: Cause, model: str = DETECT, **truth: Any) -> Fault:
    return Fault(f"pixels: {name}", plant, Truth(cause, truth.pop("images", (GUILTY,)), **truth), model)


MADE = partial(_pixels, cause=Cause.PREPROCESSING, stage="preprocess_batch")

FAULTS = [
    _pixels("NaN in a TIFF file", partial(_nan_in_file, end=".tiff"), Cause.IMAGE),
    _pixels("NaN in a npy file", partial(_nan_in_file, end=".npy"), Cause.IMAGE, V8),
    _pixels("NaN in two files", partial(_nan_in_file, end=".tiff", places=(2, 5)), Cause.IMAGE, POSE, images=(2, 5)),
    _pixels("a file that is cut off", _unreadable, Cause.IMAGE),
    _pixels("NaN in a file, and a transform beside it", _file_and_transform, Cause.IMAGE),
    _pixels("NaN in a file, RT-DETR", partial(_nan_in_file, end=".tiff"), Cause.IMAGE, RT_DETR),
    _pixels("a transform", _transform, Cause.PREPROCESSING, stage="transforms"),
    _pixels("a transform, two images", partial(_transform, places=(0, 5)), Cause.PREPROCESSING, SEGMENT,
            images=(0, 5), stage="transforms"),
    MADE("preprocess_batch, contrast", partial(_wrapped, hook=_contrast), line=marked(_contrast)),
    MADE("preprocess_batch, in place", partial(_wrapped, hook=_brightness), model=POSE, line=marked(_brightness)),
    MADE("preprocess_batch, logarithm", partial(_wrapped, hook=_logarithm), model=OBB, line=marked(_logarithm)),
    MADE("preprocess_batch, numpy", partial(_wrapped, hook=_in_numpy)),
    MADE("preprocess_batch of a subclass", _subclass, model=V8, line=marked(_brightness)),
]  # fmt: skip


# Labels --------------------------------------------------------------------------------------------------------------


def _row(batch: dict[str, Any]) -> int:
    return int((batch["batch_idx"].view(-1) == GUILTY).nonzero()[0])


def _label(scene: Scene, key: str, place: Any, value: float) -> None:
    """Write a value into the labels of an image, as its file would."""
    scene.loaded[key][(_row(scene.loaded), *place)] = value
    plain = type(scene.trainer).preprocess_batch
    scene.batch = plain(scene.trainer, {k: v.clone() if isinstance(v, Tensor) else v for k, v in scene.loaded.items()})
    files = scene.trainer.train_loader.dataset.im_files
    labels = scene.trainer.train_loader.dataset.labels
    where = files.index(scene.batch["im_file"][GUILTY])
    kept = labels[where]
    scene.trainer.train_loader = _with_labels(scene.trainer.train_loader, where, kept, key, place, value)


def _with_labels(loader: Any, where: int, label: dict[str, Any], key: str, place: Any, value: float) -> Any:
    """Return a loader whose data set reads the value from the file, too."""
    loader = copy.copy(loader)
    data = copy.copy(loader.dataset)
    label = copy.deepcopy(label)
    if key in label:
        label[key][(0, *place)] = value
    data.labels = [label if i == where else other for i, other in enumerate(data.labels)]
    object.__setattr__(loader, "dataset", data)
    return loader


def _label_hook(batch: dict[str, Any]) -> dict[str, Any]:
    batch["cls"] = batch["cls"] / (batch["batch_idx"].view(-1, 1) != GUILTY)
    return batch


def _made_label(scene: Scene) -> None:
    """Let a hook divide the class by zero."""
    scene.loaded["cls"][:] = 0
    own = scene.trainer.preprocess_batch
    scene.trainer.preprocess_batch = lambda batch: _label_hook(own(batch))
    scene.load_again()


def _keypoint_hook(batch: dict[str, Any]) -> dict[str, Any]:
    batch["keypoints"] = batch["keypoints"].clone()
    batch["keypoints"][_row(batch)] = math.nan
    return batch


def _made_keypoints(scene: Scene) -> None:
    own = scene.trainer.preprocess_batch
    scene.trainer.preprocess_batch = lambda batch: _keypoint_hook(own(batch))
    scene.load_again()


def _transform_labels(scene: Scene, key: str) -> None:
    """Let the data set's transforms lose labels that are fine in the file."""
    scene.loaded[key][_row(scene.loaded)] = math.nan
    scene.load_again()


def _labels(name: str, plant: Any, model: str = DETECT, images: Any = (GUILTY,), **truth: Any) -> Fault:
    cause = truth.pop("cause", Cause.LABEL)
    return Fault(f"labels: {name}", plant, Truth(cause, images, **truth), model)


FAULTS += [
    _labels(f"class NaN, {_model.split('.')[0]}", partial(_label, key="cls", place=(0,), value=math.nan), _model)
    for _model in (DETECT, V8, POSE, SEGMENT, OBB, RT_DETR)
]
FAULTS += [
    _labels("class -1, passed over by the loss", partial(_label, key="cls", place=(0,), value=-1.0),
            images=(), cause=Cause.TRANSIENT),
    _labels("class of another data set", partial(_label, key="cls", place=(0,), value=7.0), V8),
    _labels("class infinite", partial(_label, key="cls", place=(0,), value=math.inf), V8),
    _labels("keypoint NaN", partial(_label, key="keypoints", place=(1, 0), value=math.nan), POSE),
    _labels("keypoint infinite", partial(_label, key="keypoints", place=(0, 1), value=math.inf), POSE),
    _labels("box NaN, passed over by the loss", partial(_label, key="bboxes", place=(2,), value=math.nan),
            images=(), cause=Cause.TRANSIENT),
    _labels("box infinite, passed over by the loss", partial(_label, key="bboxes", place=(2,), value=math.inf), V8,
            images=(), cause=Cause.TRANSIENT),
    _labels("box NaN, RT-DETR", partial(_label, key="bboxes", place=(0,), value=math.nan), RT_DETR),
    _labels("sizes, made by a transform", partial(_transform_labels, key="bboxes"), RT_DETR, cause=Cause.PREPROCESSING,
            stage="transforms"),
    _labels("class, made by preprocess_batch", _made_label, cause=Cause.PREPROCESSING, stage="preprocess_batch"),
    _labels("keypoints, made by preprocess_batch", _made_keypoints, POSE, cause=Cause.PREPROCESSING,
            stage="preprocess_batch"),
    _labels("keypoints, made by a transform", partial(_transform_labels, key="keypoints"), POSE,
            cause=Cause.PREPROCESSING, stage="transforms"),
]  # fmt: skip
