"""Contact sheets: images with their boxes and keypoints as tiles, a caption below each, all on one page.

The callers say which images, with which colours and words; this knows neither a batch nor a data set.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GAP",
    "GREEN",
    "GREY",
    "INK",
    "MAGENTA",
    "PAPER",
    "RED",
    "Caption",
    "Mark",
    "Picture",
    "draw_sheet",
    "draw_tile",
    "plain",
    "save_picture",
    "shorten",
]

Picture = NDArray[np.uint8]
"""BGR, (H, W, 3)."""
Colour = tuple[int, int, int]
"""BGR."""

MAGENTA, RED, GREEN, GREY = (255, 0, 255), (26, 0, 230), (75, 170, 0), (140, 140, 140)
INK, PAPER = (34, 34, 34), (255, 255, 255)
_GROUND, _MARGIN = (238, 238, 238), (225, 225, 225)
"""Of the sheet, and of the space that an image leaves in its tile."""

GAP, LINE = 8, 20
"""Pixels between tiles, and of a line of text."""
_FRAME, _LEAST_WIDTH, _MOST_LINES = 5, 480, 6
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TITLE, _TEXT, _SMALL = 0.55, 0.42, 0.33
_FEW_PIXELS = 0.001
"""Share of NaN pixels up to which they are ringed: a single one could not be seen."""


class Mark(NamedTuple):
    """An object to draw on an image; what of it is not finite is left out."""

    box: NDArray[Any] | None
    """Centre x and y, width, height, as shares of the image, and an angle in radians if it has one; (4,) or (5,)."""
    points: NDArray[Any]
    """Keypoints, (K, 2 or 3): x and y as shares of the image, visibility."""
    colour: Colour
    name: str = ""
    """Written above the box."""
    thickness: int = 1


class Caption(NamedTuple):
    """A line of text below an image; it is cut where it is too long."""

    text: str
    colour: Colour = INK
    ground: Colour = PAPER


def draw_tile(
    pixels: NDArray[Any] | None,
    size: tuple[int, int],
    marks: Sequence[Mark] = (),
    captions: Sequence[Caption] = (),
    edge: Colour | None = None,
) -> Picture:
    """Draw an image in the middle of its space, its objects on it, its captions below.

    Args:
        pixels: (H, W, C) BGR or grey, of any depth, floats from 0 to 255; those that are not finite become magenta,
            and are ringed where they are few. None, or no pixels at all, is drawn as a cross.
        size: Width and height of the space for the image, pixels.
        marks: Objects; the last is on top.
        captions: Lines below.
        edge: Colour of a line around the image's space.
    """
    width, height = size
    tile: Picture = np.full((height + LINE * len(captions), width, 3), PAPER, np.uint8)
    space = tile[:height]
    space[:] = _MARGIN
    if pixels is None or not pixels.size:
        cv2.line(space, (0, 0), (width, height), GREY, 1)
        cv2.line(space, (0, height), (width, 0), GREY, 1)
    else:
        _draw_image(space, pixels, marks)
    if edge is not None:
        cv2.rectangle(space, (0, 0), (width - 1, height - 1), edge, 2)
    for i, caption in enumerate(captions):
        top = height + i * LINE
        tile[top : top + LINE] = caption.ground
        _write(tile, shorten(caption.text, width - 10, _TEXT), (5, top + 15), _TEXT, caption.colour)
    return tile


def draw_sheet(tiles: Sequence[Picture], title: str, columns: int, framed: Collection[int] = ()) -> Picture:
    """Put tiles on a page, row by row.

    Args:
        tiles: At least one, all of one size.
        title: Text above them; wrapped.
        columns: Tiles a row.
        framed: Places of the tiles that get a red frame, from 0; it lies between the tiles and hides no pixel.
    """
    height, width = tiles[0].shape[:2]
    page = max(GAP + columns * (width + GAP), _LEAST_WIDTH)
    lines = _wrap(title, page - 2 * GAP)
    top = GAP + LINE * len(lines) + GAP // 2
    sheet: Picture = np.full((top + -(-len(tiles) // columns) * (height + GAP) + GAP, page, 3), _GROUND, np.uint8)
    for i, line in enumerate(lines):
        _write(sheet, line, (GAP, GAP + i * LINE + 14), _TITLE, INK)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        x, y = GAP + column * (width + GAP), top + row * (height + GAP)
        if place in framed:
            sheet[y - _FRAME : y + height + _FRAME, x - _FRAME : x + width + _FRAME] = RED
        sheet[y : y + height, x : x + width] = tile
    return sheet


def save_picture(picture: Picture, path: Path) -> None:
    """Write a JPEG or PNG file, as its name says, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Encoded in memory: cv2.imwrite fails without a word, and on Windows on paths that are not ASCII.
    quality = () if path.suffix == ".png" else (cv2.IMWRITE_JPEG_QUALITY, 90)
    data = cv2.imencode(path.suffix, picture, quality)[1].tobytes()
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def plain(text: str) -> str:
    """Make text fit for OpenCV's fonts: accents go, what has no letter in ASCII becomes a question mark."""
    spread = unicodedata.normalize("NFKD", text)
    kept = "".join(letter for letter in spread if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in kept)


def shorten(text: str, width: int, scale: float) -> str:
    """Shorten text in its middle until it is at most ``width`` pixels wide: the end of a file name tells it apart."""
    text = plain(text)
    while len(text) > 4 and _width(text, scale) > width:
        half = (len(text) - 3) // 2
        text = f"{text[:half]}..{text[-half:]}"
    return text


def _width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, _FONT, scale, 1)[0][0])


def _wrap(text: str, width: int) -> list[str]:
    """Break text into lines that are at most ``width`` pixels wide."""
    lines: list[str] = []
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, _TITLE) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(word, width, _TITLE))
    return lines[:_MOST_LINES] or [""]


def _write(picture: Picture, text: str, place: tuple[int, int], scale: float, colour: Colour) -> None:
    """Write a line of plain text; ``place`` is the lower left end of its first letter, (x, y)."""
    cv2.putText(picture, text, place, _FONT, scale, colour, 1, cv2.LINE_AA)


def _draw_image(space: Picture, pixels: NDArray[Any], marks: Sequence[Mark]) -> None:
    """Fit an image into the middle of a space, and draw what is on it."""
    picture, bad = _eight_bits(pixels)
    (height, width), (room_height, room_width) = picture.shape[:2], space.shape[:2]
    ratio = min(room_width / width, room_height / height)
    w, h = max(1, round(width * ratio)), max(1, round(height * ratio))
    top, left = (room_height - h) // 2, (room_width - w) // 2
    image = space[top : top + h, left : left + w]
    image[:] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_NEAREST if ratio > 1 else cv2.INTER_AREA)
    for mark in marks:
        _draw_mark(image, mark)
    _show_bad_pixels(image, bad)


def _eight_bits(pixels: NDArray[Any]) -> tuple[Picture, NDArray[np.bool_]]:
    """Return pixels as BGR in eight bits, and which of them are not finite, (H, W)."""
    pixels = np.atleast_3d(pixels)[..., :3]
    bad = ~np.isfinite(pixels).all(axis=2)
    if pixels.dtype == np.uint16:
        pixels = pixels >> 8
    elif pixels.dtype != np.uint8:
        numbers = np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        pixels = np.clip(np.rint(numbers), 0, 255)
    if pixels.shape[2] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    picture = np.ascontiguousarray(pixels.astype(np.uint8, copy=False))
    if bad.any():
        picture = picture.copy()
        picture[bad] = MAGENTA
    return picture, bad


def _show_bad_pixels(image: Picture, bad: NDArray[np.bool_]) -> None:
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
        apart = {(x // radius, y // radius): (x, y) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)}
        for place in list(apart.values())[:50]:
            cv2.circle(image, place, radius, MAGENTA, 2, cv2.LINE_AA)


def _draw_mark(image: Picture, mark: Mark) -> None:
    if mark.box is not None and np.isfinite(mark.box).all():
        corners = _corners(mark.box, *image.shape[1::-1])
        line = cv2.LINE_AA if len(mark.box) > 4 else cv2.LINE_8  # what is upright is sharper without
        cv2.polylines(image, [corners], True, mark.colour, mark.thickness, line)
        if mark.name:
            _write_name(image, mark.name, (int(corners[:, 0].min()), int(corners[:, 1].min())), mark.colour)
    height, width = image.shape[:2]
    radius = max(2, max(height, width) // 110)
    for point in mark.points:
        if not np.isfinite(point).all() or (len(point) > 2 and point[2] <= 0) or not point[:2].any():
            continue
        place = (int(np.clip(point[0], -9, 9) * width), int(np.clip(point[1], -9, 9) * height))
        cv2.circle(image, place, radius + 1, PAPER, -1, cv2.LINE_AA)
        cv2.circle(image, place, radius, mark.colour, -1, cv2.LINE_AA)


def _corners(box: NDArray[Any], width: int, height: int) -> NDArray[np.int32]:
    """Return the corners of a box in pixels, (4, 2); those far outside just outside: OpenCV takes no huge numbers."""
    x, y, w, h = np.clip(box[:4], -9, 9) * (width, height, width, height)
    if len(box) > 4:
        corners = cv2.boxPoints(((float(x), float(y)), (float(w), float(h)), math.degrees(float(box[4]))))
    else:
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    whole: NDArray[np.int32] = np.clip(np.rint(corners), -9999, 9999).astype(np.int32)
    return whole


def _write_name(image: Picture, name: str, corner: tuple[int, int], colour: Colour) -> None:
    """Write a name above a box, or within it where there is no room."""
    height, width = image.shape[:2]
    scale = _TEXT if max(height, width) >= 300 else _SMALL
    text = shorten(name, max(20, width // 2), scale)
    (across, up), _ = cv2.getTextSize(text, _FONT, scale, 1)
    x = int(np.clip(corner[0], 0, max(0, width - across - 4)))
    y = int(np.clip(corner[1] if corner[1] > up + 4 else corner[1] + up + 5, up + 4, height))
    cv2.rectangle(image, (x, y - up - 4), (x + across + 4, y), colour, -1)
    _write(image, text, (x + 2, y - 3), scale, PAPER)
