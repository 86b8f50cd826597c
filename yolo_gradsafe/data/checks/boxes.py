"""Checks of classes and boxes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from yolo_gradsafe.data.checks.objects import Flags, Objects, Problem, Rules

__all__ = ["check_boxes"]

SLACK = 0.01
"""Share of the image by which Ultralytics lets a coordinate be out of it."""
LONGEST = 50.0
"""Aspect ratio from which a box is extreme; from 100 on Ultralytics' augmentation drops it."""


def check_boxes(objects: Objects, rules: Rules) -> Iterator[Problem]:
    """Yield what is wrong with classes and boxes."""
    yield from _classes(objects, rules)
    x, y, w, h = objects.box.T
    flat = (w <= 0) | (h <= 0)
    for k in objects.where(flat):
        yield Problem("box_degenerate", k, f"width {w[k]:g}, height {h[k]:g} of the image")
    low, high = objects.box[:, :2] - objects.box[:, 2:] / 2, objects.box[:, :2] + objects.box[:, 2:] / 2
    if rules.pixels:
        out = (high <= 0).any(1) | (low >= 1).any(1)
    else:
        out = (objects.box > 1 + SLACK).any(1) | (objects.box[:, :2] < -SLACK).any(1)
    for k in objects.where(out & ~flat):
        yield Problem("box_range", k, f"centre {x[k]:.4g} {y[k]:.4g}, size {w[k]:.4g} {h[k]:.4g} of the image")
    beyond = np.maximum(-low, high - 1).max(1, initial=0)
    for k in objects.where((beyond > SLACK) & ~out & ~flat):
        yield Problem("box_beyond_edge", k, f"reaches {beyond[k]:.1%} of the image beyond its edge")
    yield from _shapes(objects, flat | out)
    yield from _twice(objects, rules)


def _classes(objects: Objects, rules: Rules) -> Iterator[Problem]:
    label, count = objects.label, rules.layout.classes
    wrong = (label % 1 != 0) | (label < 0)
    if count is not None:
        wrong |= label >= count
    allowed = "a whole number" if count is None else f"0 to {count - 1}"
    for k in objects.where(wrong):
        yield Problem("class_id", k, f"class {label[k]:g}, expected {allowed}")


def _shapes(objects: Objects, broken: Flags) -> Iterator[Problem]:
    """Yield boxes that are too small or too thin at the training size."""
    sides = objects.box[:, 2:] * objects.scale
    short, long = sides.min(1, initial=np.inf), sides.max(1, initial=0)
    for k in objects.where((short < 1) & ~broken):
        yield Problem("box_subpixel", k, f"{sides[k, 0]:.3g} x {sides[k, 1]:.3g} pixels at the training size")
    ratio = long / short
    for k in objects.where((ratio > LONGEST) & objects.known & ~broken):
        yield Problem("box_aspect", k, f"{ratio[k]:.0f} times as long as wide")


def _twice(objects: Objects, rules: Rules) -> Iterator[Problem]:
    place, first = "annotation" if rules.pixels else "line", dict[tuple[int, bytes], int]()
    keys = np.column_stack([objects.label, objects.box])
    for k, (owner, key) in enumerate(zip(objects.owner.tolist(), keys, strict=True)):
        before = first.setdefault((owner, key.tobytes()), k)
        if before != k:
            yield Problem("box_duplicate", k, f"same class and box as {place} {objects.rows[before].place}")
