"""A YOLO label file, line by line: ``class x y w h``, with keypoints after it or an outline in place of the box."""

from __future__ import annotations

import math

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.files import read_bytes, reason
from yolo_gradsafe.data.read.source import Item, Layout, Row

__all__ = ["parse", "read_label"]

SHOWN = 40
"""Characters of a bad line that are quoted."""


def read_label(item: Item, layout: Layout) -> tuple[list[Row], list[Found]]:
    """Read the label file of an image; an image without one has no objects.

    Returns:
        The objects whose numbers are finite and complete, and what is wrong with the others.
    """
    try:
        data = read_bytes(item.label)
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError) as error:
        return [], [Found("label_unreadable", reason(error), item.label, image=item.image)]
    return parse(data, item, layout)


def parse(data: bytes, item: Item, layout: Layout) -> tuple[list[Row], list[Found]]:
    """Parse the bytes of a label file; as ``read_label``."""
    found: list[Found] = []

    def wrong(kind: str, message: str, line: int | None = None) -> None:
        found.append(Found(kind, message, item.label, line, image=item.image))

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong("label_unreadable", f"not UTF-8 text: {error.reason} at byte {error.start}")
        return [], found
    rows, boxes, outlines = [], False, False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = list(map(float, words))
        except ValueError:
            wrong("label_syntax", f"'{line.strip()[:SHOWN]}' is not a row of numbers", number)
            continue
        outline = _is_outline(len(values), layout)
        row = _outline_box(values) if outline else _complete(values, layout)
        if layout.task in ("segment", "obb") and len(values) == 5:
            wrong("label_box", f"5 columns, a box, where {layout.task} needs an outline", number)
        if row is None:
            wrong("label_columns", f"{len(values)} columns, expected {_expected(layout)}", number)
        elif not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):
            bad = next(k for k, value in enumerate(values) if not math.isfinite(value))
            wrong("label_nonfinite", f"column {bad + 1} is {words[bad][:SHOWN]}", number)
        else:
            rows.append(Row(number, row))
            outlines, boxes = outlines or outline, boxes or not outline
    if boxes and outlines:
        wrong("label_mixed", "rows of 5 columns (boxes) and longer ones (outlines)")
    return rows, found


def _is_outline(columns: int, layout: Layout) -> bool:
    return not layout.points and columns >= 7 and columns % 2 == 1


def _outline_box(values: list[float]) -> list[float]:
    """Return class and box of a row of an outline's corners."""
    x, y = values[1::2], values[2::2]
    x1, x2, y1, y2 = min(x), max(x), min(y), max(y)
    return [values[0], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def _complete(values: list[float], layout: Layout) -> list[float] | None:
    """Return class, box and keypoints of three numbers each, or None where columns are missing or too many."""
    count, dims = layout.points, layout.dims
    if len(values) == 5 and (not count or layout.task == "detect"):
        return values + [0.0] * (3 * count)
    if not count or len(values) != 5 + count * dims:
        return None
    if dims == 3:
        return values
    full = values[:5]
    for k in range(5, len(values), 2):
        x, y = values[k : k + 2]
        full += [x, y, 2.0 if x >= 0 and y >= 0 else 0.0]
    return full


def _expected(layout: Layout) -> str:
    if layout.points:
        columns = 5 + layout.points * layout.dims
        return f"{columns} (class, box, {layout.points} keypoints of {layout.dims} numbers)"
    return "5 (class, centre x, centre y, width, height)"
