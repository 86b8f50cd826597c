"""Which images of a batch are to blame."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from torch import Tensor

from yolo_gradsafe.forensics.search import Exhausted, Suspects, search
from yolo_gradsafe.forensics.slicing import images_in, objects_of, pick

__all__ = ["LossOf", "SampleFinding", "find_failing", "find_outliers", "label_fault", "pixel_faults"]

LossOf = Callable[[dict[str, Any]], Mapping[str, float]]
"""Computes the losses of a batch by name; may raise ``Exhausted``."""

_T = TypeVar("_T")

OUTLIER = 5.0
"""Times the median of its like from which the loss of an image is an outlier."""
_EXTREME_KEYPOINT = 100.0


@dataclass(frozen=True)
class SampleFinding:
    """An image whose loss alone is far above that of the others."""

    index: int
    """Place in the batch, from 0."""
    detail: str
    """One clause in words."""


def find_failing(fails: Callable[[dict[str, Any]], bool], batch: Mapping[str, Any]) -> Suspects:
    """Find the images that fail alone, given that the batch fails.

    The batch is halved until one image is left: in training mode batch norm spreads an image's NaN over its whole half,
    which is what the halving wants.

    Args:
        fails: Whether a batch of some of the images fails; may raise ``Exhausted``.
        batch: The preprocessed batch.
    """
    return search(lambda indices: _on_part(fails, batch, indices), images_in(batch))


def _on_part(function: Callable[[dict[str, Any]], _T], batch: Mapping[str, Any], indices: Sequence[int]) -> _T:
    try:
        return function(pick(batch, indices))
    except ValueError:
        if len(indices) > 1:
            raise
        # Batch norm cannot normalise one value a channel: the last map of a small image may be one pixel.
        return function(pick(batch, [*indices, *indices]))


def find_outliers(
    loss_of: LossOf, batch: Mapping[str, Any], factor: float = OUTLIER, most: int = 64
) -> list[SampleFinding]:
    """Find the images whose loss alone is far above that of the others.

    Images with objects are compared with one another, and so are those without: the loss of an image without objects is
    divided by 1, that of others by their objects' scores.

    Args:
        loss_of: The losses of a batch.
        batch: The preprocessed batch.
        factor: Times the median of the others from which a loss is an outlier.
        most: Images looked at.
    """
    losses: dict[int, float] = {}
    try:
        for i in range(min(images_in(batch), most)):
            losses[i] = _total(_on_part(loss_of, batch, [i]))
    except Exhausted:
        pass
    found = []
    for i, loss in losses.items():
        empty = not len(objects_of(batch, i))
        like = [other for k, other in losses.items() if k != i and (not len(objects_of(batch, k))) == empty]
        usual = median(like) if like else math.nan
        if not math.isfinite(loss) or loss > factor * usual > 0:
            times = f"its loss alone is {loss / usual:.3g} times that of the others"
            found.append(SampleFinding(i, times))
    return sorted(found, key=lambda finding: -losses[finding.index])


def pixel_faults(batch: Mapping[str, Any]) -> dict[int, int]:
    """Return the number of NaN or Inf pixels of each image that has any. Synchronises, once."""
    images = batch["img"]
    if not images.is_floating_point():
        return {}
    counts = (~images.isfinite()).flatten(2).any(dim=1).sum(dim=1).tolist()
    return {i: int(count) for i, count in enumerate(counts) if count}


def label_fault(batch: Mapping[str, Any], index: int, degenerate: bool = True, classes: float = math.inf) -> str:
    """Say what is wrong with an image's labels, as a clause; empty when nothing is. Synchronises.

    Args:
        batch: The preprocessed batch.
        index: Place of the image, from 0.
        degenerate: Take boxes without area and keypoints far outside for wrong, too, and not only what is not finite.
        classes: Classes of the model: a class beyond them is no index of one.
    """
    rows = objects_of(batch, index)
    for key in ("cls", "bboxes", "keypoints"):
        values = batch.get(key)
        if not isinstance(values, Tensor) or "batch_idx" not in batch or len(values) != len(batch["batch_idx"]):
            continue
        own = values[rows.to(values.device)].detach().float().cpu()
        for row, value in enumerate(own, 1):
            if fault := _row_fault(key, value, degenerate, classes):
                return f"{_WORDS[key]} of object {row} {fault}"
    return ""


_WORDS = {"cls": "the class", "bboxes": "the box", "keypoints": "the keypoints"}


def _row_fault(key: str, value: Tensor, degenerate: bool, classes: float) -> str:
    if not bool(value.isfinite().all()):
        return "is not finite" if key == "cls" else "hold NaN or Inf" if key == "keypoints" else "holds NaN or Inf"
    if key == "cls" and float(value.max()) >= classes:
        return f"is {float(value.max()):g}, and the model has {classes:g} classes"
    if not degenerate:
        return ""
    if key == "cls" and float(value.min()) < 0:
        return f"is {float(value.min()):g}"
    if key == "bboxes" and float(value[2:4].min()) <= 0:
        return f"is {float(value[2]):.3g} wide and {float(value[3]):.3g} high"
    if key == "keypoints" and float(value[..., :2].abs().max()) > _EXTREME_KEYPOINT:
        return f"lie {float(value[..., :2].abs().max()):.3g} image sizes away"
    return ""


def _total(losses: Mapping[str, float]) -> float:
    return losses["total"] if "total" in losses else sum(losses.values())
