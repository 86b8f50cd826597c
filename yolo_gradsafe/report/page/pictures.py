"""The pictures of incidents, put into the page as data: small, and no more of them than the page can carry."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Album"]

BUDGET = 1_000_000
"""Characters that all pictures together take at most."""
LARGEST = 900
"""Pixels of the longer side."""
DETAIL = 360
"""The same of a culprit alone."""
QUALITY = 72
FRAME = (230, 0, 26)
"""Colour of the frame around a culprit, RGB, and"""
NEAR = 80
"""how far a channel of it may be off: JPEG does not keep it exactly."""
LEAST = 60
"""Pixels of a side of a framed image at least."""
FULL = 0.9
"""Share of the pixels of a line that are red."""
THICK = 5
"""Pixels of the frame's line."""


class Album:
    """Reads pictures of one run until the budget is spent; later ones are left as links.

    Args:
        run: The run's folder; nothing outside it is read.
    """

    def __init__(self, run: Path) -> None:
        self._run = run.resolve()
        self._left = BUDGET

    def path(self, name: str) -> Path | None:
        """Return where a picture lies; None unless it is one and within the run's folder."""
        try:
            path = (self._run / name).resolve()
            fits = path.is_relative_to(self._run) and path.suffix.lower() in {".jpg", ".jpeg", ".png"}
            return path if name and fits and path.is_file() else None
        except (OSError, ValueError):
            return None

    def link(self, name: str) -> str:
        """Return a picture's address relative to the page, or nothing."""
        from urllib.parse import quote

        path = self.path(name)
        return quote(path.relative_to(self._run).as_posix()) if path else ""

    def data(self, name: str) -> str:
        """Return a picture as a data URI; nothing where there is none, it cannot be read, or the budget is spent."""
        return self._data(name, lambda image: image, LARGEST)

    def detail(self, name: str) -> str:
        """Return the first culprit of a picture alone, as a data URI; nothing where none is framed."""
        return self._data(name, _framed, DETAIL)

    def _data(self, name: str, part: Callable[[Image], Image | None], side: int) -> str:
        path = self.path(name)
        if path is None or self._left <= 0:
            return ""
        try:
            small = _small(path, part, side)
        except Exception:  # whatever an image library may say to a file that is none
            return ""
        text = "data:image/jpeg;base64," + base64.b64encode(small).decode() if small else ""
        if len(text) > self._left:
            return ""
        self._left -= len(text)
        return text


def _small(path: Path, part: Callable[[Image], Image | None], side: int) -> bytes:
    from PIL import Image

    with Image.open(path, formats=("JPEG", "PNG")) as image:
        small = part(image.convert("RGB"))
        if small is None:
            return b""
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()


def _framed(image: Image) -> Image | None:
    """Cut out what is within the first red frame, down to the caption on red; None where there is none."""
    red = (np.abs(np.asarray(image, dtype=np.int16) - FRAME) <= NEAR).all(axis=2)
    for top in np.flatnonzero(red.sum(axis=1) >= LEAST):
        left, end = _longest_run(red[top])
        across, down = slice(left + THICK, end - THICK), slice(top + THICK, top + LEAST)
        # Frames of neighbours touch: the first line that closes this one is its end.
        right = _first_full(red[down], 0, left + LEAST)
        bottom = _first_full(red[:, across], 1, int(top) + LEAST)
        opened = red[down, left : left + THICK].any(axis=1).mean() > FULL
        hollow = end - left >= LEAST and red[down, across].mean() < 0.5
        if hollow and opened and right and bottom:
            return image.crop((left + THICK, int(top) + THICK, right, bottom))
    return None


def _first_full(red: npt.NDArray[np.bool_], axis: int, start: int) -> int:
    """Return the first line from a place on that is red all along; 0 where there is none."""
    full = np.flatnonzero(red.mean(axis=axis)[start:] > FULL) if red.size else np.array([])
    return start + int(full[0]) if len(full) else 0


def _longest_run(row: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return where the longest run of true values starts, and where it has ended."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])
