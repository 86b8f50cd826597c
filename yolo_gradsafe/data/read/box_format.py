"""How the boxes of a JSON are written: COCO has x, y, width and height in pixels, but some tools another form."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["FORMATS", "BoxFormat", "Guess", "agreement", "guess", "to_corners"]

BoxFormat = Literal["coco", "pascal_voc", "albumentations", "yolo", "fiftyone"]
"""Pixels: ``coco`` corner and sides, ``pascal_voc`` two corners. Shares of the image: ``albumentations`` two corners,
``yolo`` centre and sides, ``fiftyone`` corner and sides."""
FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
WORDS = {
    "coco": "x y width height in pixels",
    "pascal_voc": "x1 y1 x2 y2",
    "albumentations": "x1 y1 x2 y2 as shares of the image",
    "yolo": "centre and sides as shares of the image",
    "fiftyone": "x y width height as shares of the image",
}
Floats = npt.NDArray[np.float64]

FEWEST = 3
"""Boxes from which their form is told without an outline."""
ALIKE, UNLIKE = 0.8, 0.5
"""IoU of box and outline from which they agree, and below which they do not."""


class Guess(NamedTuple):
    """What the boxes of a file look like."""

    format: BoxFormat
    proven: bool
    """Whether outlines or areas prove it; else it only looks so."""
    message: str


def to_corners(box: Floats, size: Floats, form: str) -> Floats:
    """Return x1, y1, x2, y2 in pixels, (N, 4), of boxes (N, 4) in images of ``size`` (N, 2)."""
    first, second = box[:, :2], box[:, 2:]
    if form in ("albumentations", "yolo", "fiftyone"):
        first, second = first * size, second * size
    if form == "yolo":
        first = first - second / 2
    if form in ("coco", "yolo", "fiftyone"):
        second = first + second
    return np.concatenate([first, second], axis=1)


def agreement(one: Floats, other: Floats) -> Floats:
    """Return the IoU (N,) of boxes given by their corners (N, 4); 0 where one has no area, NaN where one is unknown."""
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    both = sum(np.clip(box[:, 2:] - box[:, :2], 0, None).prod(1) for box in (one, other)) - shared
    unknown = np.isnan(one).any(1) | np.isnan(other).any(1)
    return np.where(unknown, np.nan, shared / np.where(both > 0, both, 1))


def guess(box: Floats, size: Floats, extent: Floats, area: Floats) -> Guess | None:
    """Tell another form than COCO's; None where the boxes look like COCO's.

    Args:
        box: Boxes as they stand in the file, (N, 4).
        size: Width and height of their images, pixels, (N, 2).
        extent: Corners of their outlines, pixels, (N, 4); NaN without one.
        area: ``area`` of the annotations, (N,); NaN without one.
    """
    if not len(box):
        return None
    shares = bool((box.max(1) <= 1.0 + 1e-6).all() and (box.min(1) >= 0).all() and (size.min(1) > 2).all())
    others: tuple[BoxFormat, ...] = ("albumentations", "yolo", "fiftyone") if shares else ("pascal_voc",)
    known = ~np.isnan(extent).any(1)
    if known.any():
        outline = extent[known]
        fits = {form: agreement(to_corners(box[known], size[known], form), outline) for form in ("coco", *others)}
        best = max(others, key=lambda form: (fits[form] > ALIKE).sum())
        count = int(((fits[best] > ALIKE) & (fits["coco"] <= ALIKE)).sum())
        if count > known.sum() / 2 and (fits["coco"] > ALIKE).sum() < known.sum() / 10:
            return Guess(best, True, f"{count} of {known.sum()} boxes are {WORDS[best]}, as their outlines show")
        if not shares:
            return None
    elif not shares and (told := _by_area(box, area)):
        return told
    if shares:
        return Guess("fiftyone", False, f"all {len(box)} boxes lie between 0 and 1: they are shares of the image")
    return _by_look(box, size)


def _by_area(box: Floats, area: Floats) -> Guess | None:
    """Tell corners by the stated areas, where those are of the boxes."""
    with np.errstate(all="ignore"):
        sides, between = box[:, 2:].prod(1), (box[:, 2:] - box[:, :2]).prod(1)
        fits = np.isclose(between, area, rtol=0.01, atol=1) & (box[:, 2:] > box[:, :2]).all(1)
        fits &= ~np.isclose(sides, area, rtol=0.05, atol=1)
    count = int(fits.sum())
    if count < FEWEST or count < 0.9 * len(box):
        return None
    return Guess("pascal_voc", True, f"{count} of {len(box)} boxes are {WORDS['pascal_voc']}, as their areas show")


def _by_look(box: Floats, size: Floats) -> Guess | None:
    """Tell corners by where the boxes would end: read as sides, many leave the image; read as corners, none does."""
    if len(box) < FEWEST:
        return None
    inside = (box[:, 2:] > box[:, :2]).all() and (box[:, 2:] <= size + 1).all() and (box >= -1).all()
    beyond = ((box[:, :2] + box[:, 2:]) > 1.02 * size + 1).any(1)
    if not inside or beyond.mean() < 0.3:
        return None
    return Guess(
        "pascal_voc", False, f"{int(beyond.sum())} of {len(box)} boxes leave the image, but none as x1 y1 x2 y2"
    )
