"""The worst images of a set on one page, what is wrong with them in red."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import numpy.typing as npt

from yolo_gradsafe.contact_sheet import GREEN, GREY, RED, Caption, Mark, Picture, draw_sheet, draw_tile, save_picture
from yolo_gradsafe.data.checks.objects import Floats

__all__ = ["MOST", "Tile", "make_tile", "save_sheet"]

COLUMNS, MOST = 4, 16
"""Images a row, and on the page."""
SIZE = (320, 240)
"""Width and height of the space for an image, pixels."""
MOST_OBJECTS = 300
"""Objects that are drawn; bad ones first."""


@dataclass(frozen=True)
class Tile:
    """A picture of an image, and how bad the image is."""

    weight: int
    name: str
    picture: Picture

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
    last_on_top = np.argsort(~bad, kind="stable")[:MOST_OBJECTS][::-1]
    marks = [
        Mark(boxes[k], points[k], RED if bad[k] else GREEN, thickness=3 if bad[k] else 1) for k in last_on_top.tolist()
    ]
    captions = [Caption(PureWindowsPath(image).name), Caption(words, RED)]
    edge = RED if weight >= 100 else GREY
    return Tile(weight, image, draw_tile(pixels, SIZE, marks, captions, edge))


def save_sheet(tiles: Sequence[Tile], title: str, path: Path) -> None:
    """Draw the page into a JPEG or PNG file, the worst image first.

    Args:
        tiles: At least one.
        title: Text above them.
        path: The file to write.

    Raises:
        OSError: The file cannot be written.
    """
    worst = [tile.picture for tile in sorted(tiles, key=Tile.rank)[:MOST]]
    save_picture(draw_sheet(worst, title, min(COLUMNS, max(len(worst), 2))), path)
