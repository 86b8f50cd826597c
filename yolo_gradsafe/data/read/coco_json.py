"""A COCO JSON (instances or keypoints), entry by entry: nothing in it is trusted to be what it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.files import read_bytes, reason

__all__ = ["Category", "CocoFile", "ImageEntry", "load_json", "number", "quoted"]

LONGEST_ID = 2**63


@dataclass(frozen=True, order=True)
class Category:
    """One class of the file."""

    name: str
    keypoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageEntry:
    """One image of the file."""

    id: int | str
    name: str
    width: float
    height: float
    """Pixels; 0 where the file does not say."""


@dataclass
class CocoFile:
    """The entries of a file that can be used, and what is wrong with the others."""

    path: Path
    categories: dict[int | str, Category] = field(default_factory=dict)
    images: dict[int | str, ImageEntry] = field(default_factory=dict)
    annotations: list[Any] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)

    def note(self, kind: str, message: str, annotation: int | str | None = None, image: str = "") -> None:
        """Add a finding."""
        self.found.append(Found(kind, message, str(self.path), annotation=annotation, image=image))


def load_json(path: Path, data: bytes | None = None) -> CocoFile:
    """Read a file; one that cannot be read has a finding and no entries."""
    file = CocoFile(path)
    try:
        values = json.loads((read_bytes(str(path)) if data is None else data).decode("utf-8-sig"))
    except OSError as error:
        file.note("json_syntax", reason(error))
    except json.JSONDecodeError as error:
        file.found.append(Found("json_syntax", f"not JSON: {error.msg}, column {error.colno}", str(path), error.lineno))
    except (ValueError, RecursionError) as error:
        file.note("json_syntax", f"not JSON: {error}")
    else:
        if isinstance(values, dict):
            _categories(file, values.get("categories"))
            _images(file, values.get("images"))
            file.annotations = list(_list(file, "annotations", values.get("annotations")))
        else:
            file.note(
                "json_structure", f"expected an object with images, annotations and categories, got {quoted(values)}"
            )
    return file


def identity(value: object) -> int | str | None:
    """Return an id that can be looked up, None for anything else; a number that is too long becomes a word."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    return str(value)[:40] if isinstance(value, int) and abs(value) >= LONGEST_ID else value


def number(value: object) -> float | None:
    """Return a number as such, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def quoted(value: object) -> str:
    """Return a value as it stands in the file, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _list(file: CocoFile, key: str, value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    missing = f"'{key}' is missing" if value is None else f"'{key}' is {quoted(value)}, expected a list"
    file.note("json_structure", missing)
    return []


def _entries(file: CocoFile, key: str, values: object) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """Yield the entries of a list that have an id of their own."""
    one, seen = {"images": "image", "categories": "category"}[key], set()
    for index, entry in enumerate(_list(file, key, values)):
        if not isinstance(entry, dict):
            file.note("json_structure", f"{key}[{index}] is {quoted(entry)}, expected an object")
        elif (name := identity(entry.get("id"))) is None:
            file.note("json_structure", f"{key}[{index}] has the id {quoted(entry.get('id'))}, expected a number")
        elif name in seen:
            kind = "image_id_duplicate" if one == "image" else "category_duplicate"
            file.note(kind, f"{one} id {name} is given twice, again at {key}[{index}]")
        else:
            seen.add(name)
            yield name, entry


def _categories(file: CocoFile, values: object) -> None:
    for name, entry in _entries(file, "categories", values):
        points = entry.get("keypoints")
        words = tuple(map(str, points)) if isinstance(points, list) else ()
        label = entry.get("name")
        file.categories[name] = Category(str(name) if label is None else str(label), words)


def _images(file: CocoFile, values: object) -> None:
    for name, entry in _entries(file, "images", values):
        path = entry.get("file_name")
        if not isinstance(path, str) or not path or "\0" in path:
            file.note("json_structure", f"image {name} has the file_name {quoted(path)}, expected a name")
            continue
        sides = [number(entry.get(side)) or 0.0 for side in ("width", "height")]
        width, height = (side if 0 < side < math.inf else 0.0 for side in sides)
        file.images[name] = ImageEntry(name, path, width, height)
