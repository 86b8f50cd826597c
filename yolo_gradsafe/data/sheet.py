"""The contact sheet: the worst images of a set on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from yolo_gradsafe.data.tile import CAPTION, DARK, HEIGHT, WIDTH, Image, Tile

__all__ = ["COLUMNS", "MOST", "draw_sheet", "save_sheet"]

COLUMNS, MOST = 4, 16
"""Images a row, and on the sheet."""
GAP, HEAD = 8, 32


def draw_sheet(tiles: Sequence[Tile], title: str) -> Image:
    """Draw the sheet, the worst image first."""
    worst = sorted(tiles, key=Tile.rank)[:MOST]
    columns = min(COLUMNS, max(len(worst), 2))
    rows = -(-max(len(worst), 1) // columns)
    shape = (HEAD + rows * (HEIGHT + CAPTION + GAP) + GAP, columns * (WIDTH + GAP) + GAP, 3)
    sheet: Image = np.full(shape, 255, np.uint8)
    plain = "".join(char if " " <= char <= "~" else "?" for char in title)
    cv2.putText(sheet, plain, (GAP, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, DARK, 1, cv2.LINE_AA)
    for index, tile in enumerate(worst):
        row, column = divmod(index, columns)
        top, left = HEAD + row * (HEIGHT + CAPTION + GAP), GAP + column * (WIDTH + GAP)
        sheet[top : top + HEIGHT + CAPTION, left : left + WIDTH] = tile.picture
    return sheet


def save_sheet(tiles: Sequence[Tile], title: str, path: Path) -> None:
    """Draw the sheet into a JPEG or PNG file.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, draw_sheet(tiles, title))[1].tobytes())
