"""The contact sheet of a batch: its images with their labels, those to blame framed in red, and why in a line."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_gradsafe.forensics.drawing import FONT, INK, PAPER, RED, Picture, cut, plain, tile, write
from yolo_gradsafe.forensics.slicing import image_name, images_in

__all__ = ["contact_sheet", "save_jpeg"]

_WIDTH = 1600
_SIDES = (150, 640)
_MOST = 64
_GAP, _BAR, _FRAME = 8, 22, 5
_SCALE = 0.42
_CAPTION_SCALE, _CAPTION_LINE = 0.55, 24
_GROUND = (238, 238, 238)


def contact_sheet(
    batch: Mapping[str, Any], caption: str, names: Mapping[int, str] | Sequence[str] = (), culprits: Sequence[int] = ()
) -> Picture:
    """Draw a batch.

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
    columns = math.ceil(math.sqrt(len(order)))
    side = int(np.clip((_WIDTH - _GAP) // columns - _GAP, *_SIDES))
    if count > len(order):
        caption = f"{caption} ({len(order)} of {count} images shown)"
    blamed = set(culprits)
    cells = [_cell(batch, index, side, names, index in blamed) for index in order]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    width = max(_GAP + columns * (side + _GAP), 480)
    heights = [max(len(cell) for cell in row) for row in rows]
    lines = _wrap(caption, width - 2 * _GAP)
    top = _GAP + len(lines) * _CAPTION_LINE + _GAP
    sheet = np.full((top + sum(h + _GAP for h in heights), width, 3), _GROUND, dtype=np.uint8)
    for i, line in enumerate(lines):
        write(sheet, line, (_GAP, _GAP + i * _CAPTION_LINE + 18), _CAPTION_SCALE, INK)
    y = top
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, cell in enumerate(row):
            x = _GAP + column * (side + _GAP)
            sheet[y : y + len(cell), x : x + side] = cell
            if order[number * columns + column] in blamed:  # in the gap: it hides no pixel
                out = _FRAME // 2 + 1
                cv2.rectangle(sheet, (x - out, y - out), (x + side - 1 + out, y + len(cell) - 1 + out), RED, _FRAME)
        y += height + _GAP
    return sheet


def save_jpeg(sheet: Picture, path: Path) -> None:
    """Write a picture, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Encoded in memory: cv2.imwrite fails without a word, and on Windows on paths that are not ASCII.
    data = cv2.imencode(".jpg", sheet, (cv2.IMWRITE_JPEG_QUALITY, 88))[1].tobytes()
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _cell(batch: Mapping[str, Any], index: int, side: int, names: Mapping[int, str], culprit: bool) -> Picture:
    """Return an image under a bar with its name: (height, side, 3)."""
    image, undrawn = tile(batch, index, side, names)
    height, width = image.shape[:2]
    cell = np.full((_BAR + height, side, 3), PAPER, dtype=np.uint8)
    left = (side - width) // 2
    cell[_BAR:, left : left + width] = image
    if culprit:
        cv2.rectangle(cell, (0, 0), (side - 1, _BAR - 1), RED, -1)
    text = " - ".join([f"{index + 1}  {os.path.basename(image_name(batch, index))}", *undrawn])
    write(cell, cut(text, side - 10, _SCALE), (5, _BAR - 7), _SCALE, PAPER if culprit else INK)
    return cell


def _wrap(text: str, width: int) -> list[str]:
    """Break text into lines that are at most ``width`` pixels wide."""
    lines: list[str] = []
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and cv2.getTextSize(longer, FONT, _CAPTION_SCALE, 1)[0][0] <= width:
            lines[-1] = longer
        else:
            lines.append(cut(word, width, _CAPTION_SCALE))
    return lines[:6] or [""]
