"""A batch on one page: its images with their labels, those to blame framed in red, and why in a line."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from yolo_gradsafe.contact_sheet import GAP, PAPER, RED, Caption, Mark, Picture, draw_sheet, draw_tile
from yolo_gradsafe.forensics.slicing import image_name, images_in, objects_of

__all__ = ["draw_batch"]

_WIDTH = 1600
"""Width of the page that is aimed at, pixels."""
_SIDES = (150, 640)
"""Shortest and longest side of an image."""
_MOST, _MOST_OBJECTS = 64, 200
_COLOURS = ((178, 114, 0), (0, 159, 230), (75, 102, 0), (157, 79, 123), (0, 90, 200), (180, 180, 40))
"""Of the classes, BGR."""


def draw_batch(
    batch: Mapping[str, Any], caption: str, names: Mapping[int, str] | Sequence[str] = (), culprits: Sequence[int] = ()
) -> Picture:
    """Draw a batch; copies it to the host, an image at a time.

    Boxes, class names and visible keypoints are drawn; pixels that are not finite are magenta.

    Args:
        batch: The preprocessed batch, on any device: images (N, C, H, W) as floats or bytes, RGB.
        caption: Text above the images; wrapped.
        names: Class names.
        culprits: Places of the images to blame, from 0; of a batch of more than 64 images they are shown first.

    Returns:
        The sheet as BGR, about 1600 pixels wide.
    """
    names = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    count = images_in(batch)
    order = list(range(count)) if count <= _MOST else sorted(range(count), key=lambda i: i not in culprits)
    order = order[:_MOST]
    if count > len(order):
        caption = f"{caption} ({len(order)} of {count} images shown)"
    columns = math.ceil(math.sqrt(len(order)))
    side = int(np.clip((_WIDTH - GAP) // columns - GAP, *_SIDES))
    height, width = batch["img"].shape[-2:]
    size = side, max(1, round(side * height / max(height, width)))
    blamed = set(culprits)
    tiles = [_tile(batch, index, size, names, index in blamed) for index in order]
    return draw_sheet(tiles, caption, columns, {place for place, index in enumerate(order) if index in blamed})


def _tile(
    batch: Mapping[str, Any], index: int, size: tuple[int, int], names: Mapping[int, str], culprit: bool
) -> Picture:
    marks, undrawn = _marks(batch, index, names, thickness=1 if max(size) < 400 else 2)
    text = " - ".join([f"{index + 1}  {os.path.basename(image_name(batch, index))}", *undrawn])
    caption = Caption(text, PAPER, RED) if culprit else Caption(text)
    return draw_tile(_pixels(batch["img"][index]), size, marks, [caption])


def _pixels(image: Tensor) -> NDArray[np.float32]:
    """Return RGB or other channels, (C, H, W), as BGR or grey, (H, W, C), from 0 to 255; NaN where it is not finite."""
    values: NDArray[np.float32] = image.detach().float().cpu().numpy()
    if image.is_floating_point():
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if low < -0.01 or high > 1.01:  # standardised, as for classification, or out of range: show what is there
            values = (values - low) / max(high - low, 1e-12)
        values = values * 255
    bad = ~np.isfinite(values).all(axis=0)  # also in a channel that is not shown
    shown: NDArray[np.float32] = (values[:1] if len(values) < 3 else values[2::-1]).transpose(1, 2, 0).copy()
    shown[bad] = np.nan
    return shown


def _marks(
    batch: Mapping[str, Any], index: int, names: Mapping[int, str], thickness: int
) -> tuple[list[Mark], list[str]]:
    """Return the objects of an image, and in words what of them has no place in a picture."""
    rows = objects_of(batch, index).tolist()
    undrawn = [f"{len(rows)} objects, {_MOST_OBJECTS} drawn"] if len(rows) > _MOST_OBJECTS else []
    marks, lost = [], 0
    for row in rows[:_MOST_OBJECTS]:
        number = float(batch["cls"].view(-1)[row])
        known = math.isfinite(number)
        colour = _COLOURS[int(number) % len(_COLOURS)] if known else RED
        name = names.get(int(number), f"{int(number)}") if known else "class NaN"
        box = batch["bboxes"][row].detach().float().cpu().numpy() if "bboxes" in batch else None
        points = batch["keypoints"][row].detach().float().cpu().numpy() if "keypoints" in batch else np.zeros((0, 2))
        lost += (box is not None and not np.isfinite(box).all()) + (not np.isfinite(points).all())
        marks.append(Mark(box, points, colour, name, thickness))
    return marks, [*undrawn, *([f"{lost} label{'s' if lost > 1 else ''} with NaN"] if lost else [])]
