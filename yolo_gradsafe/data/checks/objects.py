"""Objects of many images in one table, so that a check is one look at a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from yolo_gradsafe.data.read.source import Layout, Row

__all__ = ["Flags", "Floats", "Objects", "Problem", "Rules"]

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Problem(NamedTuple):
    """A finding about one object."""

    kind: str
    row: int
    """Row of the table."""
    message: str


@dataclass(frozen=True)
class Rules:
    """What objects are judged by."""

    layout: Layout
    imgsz: int
    """Training size, pixels: the long side of an image becomes this."""
    pixels: bool
    """Whether the objects come from a JSON, whose conversion clips them, not from label files."""


@dataclass(frozen=True)
class Objects:
    """A table of objects; lengths are shares of the image's sides."""

    owner: npt.NDArray[np.int64]
    """Image of each object, an index into ``items``."""
    label: Floats
    box: Floats
    """(N, 4): centre x and y, width, height."""
    points: Floats
    """(N, K, 3): x, y, visibility."""
    scale: Floats
    """(N, 2): width and height of the image at the training size, pixels; both its long side where it is unknown."""
    known: Flags
    """(N,): whether the size of the image is known."""
    rows: list[Row]

    @classmethod
    def gather(
        cls, rows: Sequence[Sequence[Row]], sizes: Sequence[tuple[int, int] | None], points: int, imgsz: int
    ) -> Objects:
        """Make the table of the rows of some images, given the size of each in pixels where it is known."""
        owner = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        flat = [row for some in rows for row in some]
        values = np.array([row.values for row in flat], dtype=np.float64).reshape(len(flat), 5 + 3 * points)
        scale = np.full((len(rows), 2), float(imgsz))
        for index, size in enumerate(sizes):
            if size is not None:
                scale[index] = np.array(size, dtype=np.float64) * (imgsz / max(size))
        known = np.array([size is not None for size in sizes], dtype=bool)
        return cls(
            owner=owner,
            label=values[:, 0],
            box=values[:, 1:5],
            points=values[:, 5:].reshape(len(flat), points, 3),
            scale=scale[owner],
            known=known[owner],
            rows=flat,
        )

    def where(self, mask: Flags) -> Iterator[int]:
        """Yield the rows of a mask."""
        yield from np.flatnonzero(mask).tolist()
