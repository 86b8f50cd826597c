"""Annotations of a COCO JSON, as objects: boxes as shares of the image, classes counted from 0, keypoints filled up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from yolo_gradsafe.data.read.coco_json import CocoFile, identity, number, quoted
from yolo_gradsafe.data.read.source import Item, Row

__all__ = ["add_rows"]


def add_rows(file: CocoFile, items: Mapping[int | str, Item], classes: Mapping[int | str, int], points: int) -> None:
    """Give every image its objects, and note what is wrong with annotations that cannot be one.

    Args:
        file: The file; its findings grow.
        items: Images by their id; those of the file that are not here are known to be missing.
        classes: Class, from 0, by the id of the category.
        points: Keypoints an object.
    """
    seen: set[int | str] = set()
    for index, entry in enumerate(file.annotations):
        if not isinstance(entry, dict):
            file.note("json_structure", f"annotations[{index}] is {quoted(entry)}, expected an object")
            continue
        known = identity(entry.get("id"))
        place = f"annotations[{index}]" if known is None else known
        if known is not None and known in seen:
            file.note("annotation_id_duplicate", f"annotation id {known} is given twice", known)
        seen.add(place)
        image, category = identity(entry.get("image_id")), identity(entry.get("category_id"))
        if image is None or image not in file.images:
            file.note("image_unknown", f"image_id {quoted(entry.get('image_id'))} is not among the images", place)
            continue
        item = items.get(image)
        if item is None or item.size is None:
            continue
        if category is None or category not in classes:
            words = f"category_id {quoted(entry.get('category_id'))} is not among the categories"
            file.note("category_unknown", words, place, item.image)
            continue
        if entry.get("iscrowd"):
            file.note("crowd", "a crowd region", place, item.image)
            continue
        box = _numbers(file, entry, "bbox", 4, place, item)
        keypoints = _numbers(file, entry, "keypoints", 3 * points, place, item) if points else []
        if box is not None and keypoints is not None:
            _check_area(file, entry, keypoints, place, item)
            item.rows.append(Row(place, _shares(classes[category], box, keypoints, item.size)))


def _numbers(
    file: CocoFile, entry: dict[str, Any], key: str, count: int, place: int | str, item: Item
) -> list[float] | None:
    """Return a list of finite numbers, None where it is something else; keypoints may be missing or fewer."""
    given = entry.get(key)
    if given is None and key == "keypoints":
        return [0.0] * count
    values = [number(value) for value in given] if isinstance(given, list) else [None]
    right = len(values) == count or (key == "keypoints" and len(values) < count and len(values) % 3 == 0)
    if None in values or not right:
        file.note("json_structure", f"{key} is {quoted(given)}, expected {count} numbers", place, item.image)
        return None
    numbers = [value for value in values if value is not None]
    if not all(map(math.isfinite, numbers)):
        file.note("label_nonfinite", f"{key} is {quoted(given)}", place, item.image)
        return None
    return numbers + [0.0] * (count - len(numbers))


def _check_area(file: CocoFile, entry: dict[str, Any], keypoints: list[float], place: int | str, item: Item) -> None:
    area = number(entry.get("area"))
    if area is not None and not 0 < area < math.inf and any(keypoints[2::3]):
        file.note("area", f"area is {area:g}", place, item.image)


def _shares(label: int, box: list[float], keypoints: list[float], size: tuple[int, int]) -> list[float]:
    """Return class, centre, sides and keypoints, lengths as shares of the image's sides."""
    (x, y, w, h), (width, height) = box, size
    values = [float(label), (x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    for k in range(0, len(keypoints), 3):
        values += [keypoints[k] / width, keypoints[k + 1] / height, keypoints[k + 2]]
    return values
