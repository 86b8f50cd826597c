"""Outlines of a COCO JSON: polygons, and masks as run lengths (RLE), each as rings of corners in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["decode_mask", "extent", "rings"]

Floats = npt.NDArray[np.float64]

MOST_PIXELS = 2**28
"""Pixels of a mask that are decoded; a larger one is taken for a mistake."""


def rings(segmentation: Any) -> list[Floats]:
    """Return the rings of an outline, each (N, 2) with N >= 3, x and y in pixels; none where it has no area.

    Polygons are taken as a list of flat lists (COCO), as one flat list, or with a list a corner; parts that are no
    polygon are left out. Masks are decoded, compressed or not, and followed along the edges of their pixels; holes are
    filled.
    """
    if isinstance(segmentation, dict):
        mask = decode_mask(segmentation)
        return [] if mask is None else _contours(mask)
    return [ring for part in _parts(segmentation) if (ring := _ring(part)) is not None]


def extent(segmentation: Any) -> list[float] | None:
    """Return x1, y1, x2, y2 of an outline in pixels, None where there is none."""
    if isinstance(segmentation, list):
        try:  # the usual form, without a detour
            x, y = segmentation[0][::2], segmentation[0][1::2]
            for part in segmentation[1:]:
                x, y = x + part[::2], y + part[1::2]
            x1, y1, x2, y2 = float(min(x)), float(min(y)), float(max(x)), float(max(y))
            return [x1, y1, x2, y2] if 0 < x2 - x1 < 1e9 and 0 < y2 - y1 < 1e9 and type(x[0]) is not str else None
        except (TypeError, ValueError, IndexError, KeyError, OverflowError):
            pass
    if isinstance(segmentation, dict):
        mask = decode_mask(segmentation)
        if mask is None:
            return None
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if not len(columns):
            return None
        return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
    corners = rings(segmentation)
    if not corners:
        return None
    every = np.concatenate(corners)
    return [*every.min(0).tolist(), *every.max(0).tolist()]


def decode_mask(rle: dict[str, Any]) -> npt.NDArray[np.uint8] | None:
    """Return a mask (H, W) of 0 and 1, None where it is none."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return None
    height, width = size
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or height * width > MOST_PIXELS:
        return None
    if not all(type(run) is int and 0 <= run <= MOST_PIXELS for run in runs) or sum(runs) != height * width:
        return None
    values = np.arange(len(runs), dtype=np.uint8) % 2
    mask: npt.NDArray[np.uint8] = np.repeat(values, runs).reshape(width, height).T
    return mask


def _runs(text: str) -> list[int] | None:
    """Return the run lengths of COCO's compressed form: 5 bits a character, from the third on as differences."""
    runs: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _contours(mask: npt.NDArray[np.uint8]) -> list[Floats]:
    """Follow a mask along the edges of its pixels, to a quarter of one."""
    columns, lines = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return []
    left, top = int(columns[0]), int(lines[0])
    part = mask[top : int(lines[-1]) + 1, left : int(columns[-1]) + 1]
    double = np.repeat(np.repeat(part, 2, 0), 2, 1)  # OpenCV goes through the middles of pixels
    found, _ = cv2.findContours(np.ascontiguousarray(double), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    middle = np.array([left, top]) + 0.25
    return [contour.reshape(-1, 2) / 2.0 + middle for contour in found if len(contour) >= 3]


def _parts(segmentation: Any) -> Sequence[Any]:
    if not isinstance(segmentation, list) or not segmentation:
        return []
    if not isinstance(segmentation[0], list):
        return [segmentation]
    pairs = all(isinstance(part, list) and len(part) == 2 and not isinstance(part[0], list) for part in segmentation)
    return [segmentation] if pairs else segmentation


def _ring(part: Any) -> Floats | None:
    """Return a ring of corners, None for anything else."""
    try:
        ring: Floats = np.array(part, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return None
    whole = len(ring) >= 3 and np.isfinite(ring).all()
    return ring if whole and (np.ptp(ring, axis=0) > 0).all() else None
