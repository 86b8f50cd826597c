"""Checks of keypoints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from yolo_gradsafe.data.checks.boxes import SLACK
from yolo_gradsafe.data.checks.objects import Flags, Objects, Problem, Rules

__all__ = ["check_keypoints"]

FAR = 0.5
"""Share of the box's long side by which a visible keypoint may be outside it; COCO has some by 0.4."""
LEAST_AREA = 1.0
"""Area of a box with visible keypoints, square pixels at the training size."""


def check_keypoints(objects: Objects, rules: Rules) -> Iterator[Problem]:
    """Yield what is wrong with keypoints."""
    count = objects.points.shape[1]
    if not count:
        return
    xy, flag = objects.points[..., :2], objects.points[..., 2]
    seen = np.greater(flag, 0)
    for k, point in _pairs(~np.isin(flag, (0.0, 1.0, 2.0))):
        yield Problem("keypoint_visibility", k, f"keypoint {point + 1} has visibility {flag[k, point]:g}")
    outside = np.any((xy < -SLACK) | (xy > 1 + SLACK), axis=2)
    if rules.pixels:
        outside &= seen  # a conversion sets the others to zero
    for k, point in _pairs(outside):
        x, y = xy[k, point]
        kind = "keypoint_dropped" if rules.pixels else "keypoint_outside_image"
        yield Problem(kind, k, f"keypoint {point + 1} at {x:.4g} {y:.4g} of the image")
    yield from _far(objects, seen & ~outside)
    for k in objects.where(seen.sum(1) == 0):
        yield Problem("keypoint_none", k, f"none of {count} keypoints is labelled")
    sides = objects.box[:, 2:] * objects.scale
    area = sides[:, 0] * sides[:, 1]
    for k in objects.where((seen.sum(1) > 0) & (area < LEAST_AREA)):
        yield Problem("oks_area", k, f"{area[k]:.3g} square pixels at the training size, {seen[k].sum()} keypoints")


def _far(objects: Objects, seen: Flags) -> Iterator[Problem]:
    """Yield visible keypoints that are far outside their box."""
    half = objects.box[:, None, 2:] / 2
    over = np.abs(objects.points[..., :2] - objects.box[:, None, :2]) - half
    pixels = (over * objects.scale[:, None]).max(2, initial=-np.inf)
    side = (objects.box[:, 2:] * objects.scale).max(1, initial=0)
    for k, point in _pairs(seen & (pixels > FAR * side[:, None] + 1)):
        words = f"keypoint {point + 1} is {pixels[k, point]:.3g} pixels outside its box of {side[k]:.3g}"
        yield Problem("keypoint_outside_box", k, words)


def _pairs(mask: Flags) -> Iterator[tuple[int, int]]:
    yield from zip(*(places.tolist() for places in np.nonzero(mask)), strict=True)
