"""One image of a contact sheet: small, its boxes and keypoints drawn, what is wrong with it red, a caption below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

import cv2
import numpy as np
import numpy.typing as npt

from yolo_gradsafe.data.checks.objects import Floats

__all__ = ["Tile", "make_tile"]

Image = npt.NDArray[np.uint8]

WIDTH, HEIGHT, CAPTION = 320, 240, 40
RED, GREEN, GREY, DARK, MAGENTA = (26, 0, 230), (75, 170, 0), (140, 140, 140), (34, 34, 34), (255, 0, 255)
"""BGR; red and green are those of the report."""
MOST_BOXES = 300
"""Boxes that are drawn; bad ones first."""


@dataclass(frozen=True)
class Tile:
    """A picture of an image, and how bad the image is."""

    weight: int
    name: str
    picture: Image
    """(HEIGHT + CAPTION, WIDTH, 3) BGR."""

    def rank(self) -> tuple[int, str]:
        """Return what sorts the worst first."""
        return -self.weight, self.name


def make_tile(
    image: str,
    weight: int,
    pixels: npt.NDArray[np.generic] | None,
    boxes: Floats,
    points: Floats,
    bad: npt.NDArray[np.bool_],
    words: str,
) -> Tile:
    """Draw an image.

    Args:
        image: Its file.
        weight: How bad it is.
        pixels: (H, W, 3) BGR of any depth, or None if it cannot be read.
        boxes: (N, 4) centre x and y, width, height, shares of the image.
        points: (N, K, 3) x, y, visibility.
        bad: (N,) whether something is wrong with an object.
        words: What is wrong, for the caption.
    """
    picture: Image = np.full((HEIGHT + CAPTION, WIDTH, 3), 255, np.uint8)
    room = picture[:HEIGHT]
    room[:] = 235
    if pixels is None or not pixels.size:
        cv2.line(room, (0, 0), (WIDTH, HEIGHT), GREY, 1)
        cv2.line(room, (0, HEIGHT), (WIDTH, 0), GREY, 1)
        place = room
    else:
        small = _shrunk(pixels)
        h, w = small.shape[:2]
        top, left = (HEIGHT - h) // 2, (WIDTH - w) // 2
        place = room[top : top + h, left : left + w]
        place[:] = small
    if pixels is not None:
        for k in np.argsort(~bad, kind="stable")[:MOST_BOXES][::-1]:
            _draw(place, boxes[k], points[k], RED if bad[k] else GREEN)
    cv2.rectangle(room, (0, 0), (WIDTH - 1, HEIGHT - 1), RED if weight >= 100 else GREY, 2)
    _write(picture, PureWindowsPath(image).name, HEIGHT + 16, DARK)
    _write(picture, words, HEIGHT + 33, RED)
    return Tile(weight, image, picture)


def _shrunk(pixels: npt.NDArray[np.generic]) -> Image:
    """Return an image in eight bits that fits a tile; pixels that are not finite are magenta."""
    h, w = pixels.shape[:2]
    ratio = min(WIDTH / w, HEIGHT / h)
    size = max(1, round(w * ratio)), max(1, round(h * ratio))
    shape = np.atleast_3d(pixels)[..., :3]
    wrong = ~np.isfinite(shape).all(2)
    if shape.dtype == np.uint16:
        plain = (shape >> 8).astype(np.uint8)
    elif shape.dtype == np.uint8:
        plain = shape.astype(np.uint8, copy=False)
    else:
        plain = np.clip(np.nan_to_num(shape.astype(np.float32), nan=0, posinf=0, neginf=0), 0, 255).astype(np.uint8)
    plain = np.broadcast_to(plain, (h, w, 3)) if plain.shape[2] == 1 else plain
    small: Image = cv2.resize(np.ascontiguousarray(plain), size, interpolation=cv2.INTER_AREA)
    if wrong.any():
        rows, columns = np.nonzero(wrong)
        small[(rows * size[1]) // h, (columns * size[0]) // w] = MAGENTA
    return small


def _draw(place: Image, box: Floats, points: Floats, colour: tuple[int, int, int]) -> None:
    with np.errstate(all="ignore"):
        (x1, y1), (x2, y2) = _pixels(np.stack([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]), place)
    cv2.rectangle(place, (x1, y1), (max(x2, x1 + 1), max(y2, y1 + 1)), colour, 2 if colour == RED else 1)
    for x, y in _pixels(points[points[:, 2] > 0, :2], place):
        cv2.circle(place, (x, y), 2, colour, -1)


def _pixels(shares: Floats, place: Image) -> list[list[int]]:
    """Return places (N, 2) in pixels, those far outside just outside, as OpenCV does not take every number."""
    h, w = place.shape[:2]
    pixels: list[list[int]] = np.rint(np.clip(np.nan_to_num(shares), -1, 2) * (w, h)).astype(int).tolist()
    return pixels


def _write(picture: Image, text: str, y: int, colour: Sequence[int]) -> None:
    """Write a line of what OpenCV's font has, cut at the width of the tile."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in text)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    while plain and cv2.getTextSize(plain, font, size, 1)[0][0] > WIDTH - 8:
        plain = plain[:-4] + ".." if len(plain) > 6 else ""
    cv2.putText(picture, plain, (4, y), font, size, colour, 1, cv2.LINE_AA)
