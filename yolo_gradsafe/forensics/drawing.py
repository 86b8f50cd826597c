"""One image of a batch as a tile: its pixels, its boxes with their classes, its keypoints."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from yolo_gradsafe.forensics.slicing import objects_of

__all__ = ["FONT", "INK", "MAGENTA", "PAPER", "RED", "Picture", "cut", "plain", "tile", "write"]

Picture = NDArray[np.uint8]
"""BGR, (H, W, 3)."""

MAGENTA, RED, INK, PAPER = (255, 0, 255), (26, 0, 230), (34, 34, 34), (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
_COLOURS = ((178, 114, 0), (0, 159, 230), (75, 102, 0), (157, 79, 123), (0, 90, 200), (180, 180, 40))
_MOST_OBJECTS = 200
_FEW_PIXELS = 0.001
"""Share of NaN pixels up to which they are ringed: a single one could not be seen."""


def tile(batch: Mapping[str, Any], index: int, side: int, names: Mapping[int, str]) -> tuple[Picture, list[str]]:
    """Draw an image with its labels.

    Args:
        batch: The preprocessed batch, on any device.
        index: Place of the image, from 0.
        side: Length of the picture's longer side, pixels.
        names: Class names by number.

    Returns:
        The picture, and what could not be drawn, in words.
    """
    pixels, bad = _pixels(batch["img"][index])
    height, width = pixels.shape[:2]
    size = (max(1, round(side * width / max(height, width))), max(1, round(side * height / max(height, width))))
    grows = side > max(height, width)
    image = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST if grows else cv2.INTER_AREA)
    undrawn = _labels(image, batch, index, names)
    _mark(image, bad)
    return np.asarray(image, dtype=np.uint8), undrawn


def plain(text: str) -> str:
    """Make text fit for OpenCV's fonts: accents go, what has no letter in ASCII becomes a question mark."""
    spread = unicodedata.normalize("NFKD", text)
    kept = "".join(letter for letter in spread if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in kept)


def cut(text: str, width: int, scale: float) -> str:
    """Shorten text in its middle until it is at most ``width`` pixels wide: the end of a file name tells it apart."""
    text = plain(text)
    while len(text) > 4 and cv2.getTextSize(text, FONT, scale, 1)[0][0] > width:
        half = (len(text) - 3) // 2
        text = f"{text[:half]}..{text[-half:]}"
    return text


def write(image: Picture, text: str, place: tuple[int, int], scale: float, colour: Sequence[int]) -> None:
    """Write a line of plain text; ``place`` is the lower left end of its first letter, (x, y)."""
    cv2.putText(image, text, place, FONT, scale, colour, 1, cv2.LINE_AA)


def _pixels(image: Tensor) -> tuple[Picture, NDArray[np.bool_]]:
    """Return (C, H, W) pixels as BGR, and which of them are not finite, (H, W)."""
    values = image.detach().float().cpu().numpy()
    bad = ~np.isfinite(values).all(axis=0)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if image.is_floating_point():
        low, high = float(values.min()), float(values.max())
        if low < -0.01 or high > 1.01:  # standardised, as for classification, or out of range: show what is there
            values = (values - low) / max(high - low, 1e-12)
        values = values * 255
    rgb = np.repeat(values[:1], 3, axis=0) if len(values) < 3 else values[:3]
    picture = np.ascontiguousarray(np.clip(np.rint(rgb[::-1].transpose(1, 2, 0)), 0, 255).astype(np.uint8))
    picture[bad] = MAGENTA
    return picture, bad


def _mark(image: Picture, bad: NDArray[np.bool_]) -> None:
    """Paint pixels that are not finite, so that resizing cannot hide them, and ring them where they are few."""
    count = int(bad.sum())
    if not count:
        return
    height, width = image.shape[:2]
    rows, columns = np.nonzero(bad)
    ys, xs = rows * height // bad.shape[0], columns * width // bad.shape[1]
    image[ys, xs] = MAGENTA
    if count <= max(1, _FEW_PIXELS * bad.size):
        radius = max(5, min(height, width) // 24)
        for x, y in list(
            {(int(x) // radius, int(y) // radius): (int(x), int(y)) for x, y in zip(xs, ys, strict=True)}.values()
        )[:50]:
            cv2.circle(image, (x, y), radius, MAGENTA, 2, cv2.LINE_AA)


def _labels(image: Picture, batch: Mapping[str, Any], index: int, names: Mapping[int, str]) -> list[str]:
    """Draw the objects; return what of them has no place in the picture."""
    rows = objects_of(batch, index).tolist()
    undrawn = [f"{len(rows)} objects, {_MOST_OBJECTS} drawn"] if len(rows) > _MOST_OBJECTS else []
    height, width = image.shape[:2]
    thin = 1 if max(height, width) < 400 else 2
    lost = 0
    for row in rows[:_MOST_OBJECTS]:
        number = float(batch["cls"].view(-1)[row])
        known = math.isfinite(number)
        colour = _COLOURS[int(number) % len(_COLOURS)] if known else RED
        name = names.get(int(number), f"{int(number)}") if known else "class NaN"
        box = batch["bboxes"][row].detach().float().cpu().numpy() if "bboxes" in batch else None
        if box is not None and np.isfinite(box).all():
            corners = _corners(box, width, height)
            cv2.polylines(image, [corners], True, colour, thin, cv2.LINE_AA)
            _tag(image, name, (int(corners[:, 0].min()), int(corners[:, 1].min())), colour)
        elif box is not None:
            lost += 1
        if "keypoints" in batch:
            lost += _keypoints(image, batch["keypoints"][row].detach().float().cpu().numpy(), colour)
    return [*undrawn, *([f"{lost} label{'s' if lost > 1 else ''} with NaN"] if lost else [])]


def _corners(box: NDArray[np.float32], width: int, height: int) -> NDArray[np.int32]:
    """Return the corners (4, 2) of a box of shares of the image: x y w h, and an angle in radians if it has one."""
    x, y, w, h = np.clip(box[:4], -9, 9) * (width, height, width, height)
    if len(box) > 4:
        corners = cv2.boxPoints(((float(x), float(y)), (float(w), float(h)), math.degrees(float(box[4]))))
    else:
        corners = np.array(
            [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)]
        )
    whole: NDArray[np.int32] = np.clip(np.rint(corners), -9999, 9999).astype(np.int32)
    return whole


def _keypoints(image: Picture, points: NDArray[np.float32], colour: Sequence[int]) -> int:
    """Draw the visible keypoints, (K, 2 or 3); return 1 if one of them is not finite."""
    height, width = image.shape[:2]
    radius = max(2, max(height, width) // 110)
    for point in points:
        if not np.isfinite(point).all() or (len(point) > 2 and point[2] == 0) or not point[:2].any():
            continue
        place = (int(np.clip(point[0], -9, 9) * width), int(np.clip(point[1], -9, 9) * height))
        cv2.circle(image, place, radius + 1, PAPER, -1, cv2.LINE_AA)
        cv2.circle(image, place, radius, colour, -1, cv2.LINE_AA)
    return int(not np.isfinite(points).all())


def _tag(image: Picture, name: str, corner: tuple[int, int], colour: Sequence[int]) -> None:
    """Write a class name above a box, or within it where there is no room."""
    height, width = image.shape[:2]
    scale = 0.4 if max(height, width) >= 300 else 0.33
    text = cut(name, max(20, width // 2), scale)
    (across, up), _ = cv2.getTextSize(text, FONT, scale, 1)
    x = int(np.clip(corner[0], 0, max(0, width - across - 4)))
    y = int(np.clip(corner[1] if corner[1] > up + 4 else corner[1] + up + 5, up + 4, height))
    cv2.rectangle(image, (x, y - up - 4), (x + across + 4, y), colour, -1)
    write(image, text, (x + 2, y - 3), scale, PAPER)
