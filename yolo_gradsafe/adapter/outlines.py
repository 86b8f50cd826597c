"""Outlines of objects, as Ultralytics' own converter treats them."""

from __future__ import annotations

from typing import Any

from ultralytics.data.converter import merge_multi_segment

__all__ = ["merge_outlines"]


def merge_outlines(parts: list[list[float]]) -> list[Any]:
    """Join the outlines of an object in several parts to one, by thin bridges, as the converter does.

    Args:
        parts: Each outline as x1, y1, x2, y2, ..., pixels.

    Returns:
        Arrays of points, shape (N, 2), to be joined end to end.
    """
    joined: list[Any] = merge_multi_segment(parts)
    return joined
