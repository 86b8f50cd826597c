"""Which annotations can be trained on, and how they are written as label rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from yolo_gradsafe.data.checks.boxes import SLACK
from yolo_gradsafe.data.read.source import Row

__all__ = ["LeftOut", "label_row"]


class LeftOut(Exception):
    """An annotation that cannot be trained on: a kind of finding, and why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def label_row(row: Row, label: int, pose: bool) -> str:
    """Return an object as a line of a label file, its box and keypoints clipped to the image.

    Args:
        row: The object.
        label: Its class in the label file.
        pose: Whether to write keypoints; an object without a labelled one is left out, as Ultralytics' own converter
            and COCO's evaluation leave it out.

    Raises:
        LeftOut: It cannot be trained on.
    """
    x, y, w, h = row.values[1:5]
    if not (w > 0 and h > 0):
        raise LeftOut("box_degenerate", f"width {w:g}, height {h:g} of the image")
    x1, x2, y1, y2 = (min(max(value, 0.0), 1.0) for value in (x - w / 2, x + w / 2, y - h / 2, y + h / 2))
    numbers = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    written = [f"{value:.6g}" for value in numbers]
    if not all(map(math.isfinite, numbers)) or min(float(side) for side in written[2:]) <= 0:
        raise LeftOut("box_range", f"centre {x:.4g} {y:.4g}, size {w:.4g} {h:.4g} of the image")
    if pose:
        points = list(_points(row.values[5:]))
        if not any(flag != "0" for _, _, flag in points):
            raise LeftOut("keypoint_none", "no labelled keypoint inside the image")
        written += [word for point in points for word in point]
    return " ".join([str(label), *written])


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
