"""Which objects of COCO JSON can be trained on, and how they are written as lines of a label file."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from yolo_gradsafe.data.checks.boxes import SLACK
from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.outlines import rings
from yolo_gradsafe.data.read.source import Item, Row, Source

__all__ = ["FATAL", "LeftOut", "label_row", "lines", "task_of", "used_classes"]

FATAL = (
    "json_syntax",
    "foreign_format",
    "yaml_key",
    "path_missing",
    "box_format_unclear",
    "task_keypoints",
    "task_outlines",
)
"""Findings after which nothing is trained on."""

Floats = npt.NDArray[np.float64]


class LeftOut(Exception):
    """An annotation that cannot be trained on: a kind of finding, and why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def task_of(source: Source) -> str:
    """Return the task that labels are written for: pose where there are keypoints, if it is not known."""
    return source.layout.task or ("pose" if source.layout.points else "detect")


def used_classes(source: Source, task: str) -> dict[int, int]:
    """Return the classes that are used, each with its number in the label files: for pose those with keypoints."""
    named = [k for k, points in enumerate(source.key_points) if points]
    used = named if task == "pose" and named else range(len(source.key_points))
    return {k: index for index, k in enumerate(used)}


def lines(item: Item, source: Source, classes: dict[int, int], task: str) -> tuple[list[str], list[Found]]:
    """Return the lines of an image's label file, and the annotations that are left out."""
    written: dict[str, int | str] = {}
    left: list[Found] = []
    for row in item.rows:
        label = classes.get(int(row.values[0]))
        try:
            if label is None:
                raise LeftOut("keypoint_none", "its category has no keypoints")
            line = label_row(row, label, task, item.size or (1, 1))
            if line in written:
                raise LeftOut("box_duplicate", f"the same label as annotation {written[line]}")
            written[line] = row.place
        except LeftOut as why:
            left.append(Found(why.kind, str(why), source.file, annotation=row.place, image=item.image))
    return list(written), left


def label_row(row: Row, label: int, task: str, size: tuple[int, int]) -> str:
    """Return an object as a line of a label file, clipped to the image.

    Args:
        row: The object.
        label: Its class in the label file.
        task: ``detect``: the box. ``pose``: box and keypoints; an object without a labelled one is left out, as
            Ultralytics' own converter and COCO's evaluation leave it out. ``segment``: the outline, ``obb``: its four
            corners; without an outline those of the box, as Ultralytics' converter has it.
        size: Width and height of the image, pixels.

    Raises:
        LeftOut: It cannot be trained on.
    """
    x, y, w, h = row.values[1:5]
    if not (w > 0 and h > 0):
        raise LeftOut("box_degenerate", f"width {w:g}, height {h:g} of the image")
    x1, x2, y1, y2 = max(x - w / 2, 0.0), min(x + w / 2, 1.0), max(y - h / 2, 0.0), min(y + h / 2, 1.0)
    if not (x2 > x1 and y2 > y1):  # NaN is no more than anything
        raise LeftOut("box_range", f"centre {x:.4g} {y:.4g}, size {w:.4g} {h:.4g} of the image")
    if task in ("segment", "obb"):
        return " ".join([str(label), *(f"{value:.6g}" for value in _outline(row, task, size))])
    line = f"{label} {(x1 + x2) / 2:.6g} {(y1 + y2) / 2:.6g} {x2 - x1:.6g} {y2 - y1:.6g}"
    if task == "pose":
        if row.fault:
            raise LeftOut("keypoint_syntax", row.fault)
        points = list(_points(row.values[5:]))
        if not any(flag != "0" for _, _, flag in points):
            raise LeftOut("keypoint_none", "no labelled keypoint inside the image")
        line = " ".join([line, *(word for point in points for word in point)])
    return line


def _points(values: Sequence[float]) -> list[tuple[str, str, str]]:
    """Return each keypoint as x, y and visibility; one that is not labelled or outside the image is all zero."""
    points = []
    for x, y, flag in zip(values[::3], values[1::3], values[2::3], strict=True):
        inside = -SLACK <= x <= 1 + SLACK and -SLACK <= y <= 1 + SLACK
        if flag > 0 and inside:
            points.append((f"{min(max(x, 0), 1):.6g}", f"{min(max(y, 0), 1):.6g}", "1" if flag == 1 else "2"))
        else:
            points.append(("0", "0", "0"))
    return points


def _outline(row: Row, task: str, size: tuple[int, int]) -> list[float]:
    """Return the corners of an outline, x and y in turn, as shares of the image."""
    parts = rings(row.outline)
    if not parts:
        corners = _box_corners(row, size)
    elif task == "obb":
        corners = parts[0] if len(parts) == 1 and len(parts[0]) == 4 else _tight(np.concatenate(parts))
    else:
        corners = parts[0] if len(parts) == 1 else _merged(parts)
    clipped = np.clip(corners / size, 0, 1)
    if not (np.ptp(clipped, axis=0) > 0).all():
        raise LeftOut("box_range", "its outline lies outside the image")
    return [float(value) for value in clipped.ravel()]


def _box_corners(row: Row, size: tuple[int, int]) -> Floats:
    """Return the corners (4, 2) of a box in pixels, turned as the annotation says."""
    x, y, w, h = (value * side for value, side in zip(row.values[1:5], (*size, *size), strict=True))
    corners: Floats = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    angle = math.radians(row.rotation or 0.0)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned: Floats = corners @ turn + np.array([x, y])
    return turned


def _tight(points: Floats) -> Floats:
    """Return the corners (4, 2) of the smallest turned rectangle around points."""
    around: Floats = cv2.boxPoints(cv2.minAreaRect(points.astype(np.float32))).astype(np.float64)
    return around


def _merged(parts: list[Floats]) -> Floats:
    """Join several rings to one, as Ultralytics' converter does it."""
    from yolo_gradsafe.adapter.outlines import merge_outlines  # imports torch: only where an object has several

    joined: Floats = np.concatenate(merge_outlines([part.ravel().tolist() for part in parts]))
    return joined
