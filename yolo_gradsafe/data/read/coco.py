"""A data set of COCO JSON files, one a split, with their images."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.annotations import add_rows
from yolo_gradsafe.data.read.coco_json import Category, CocoFile, load_json
from yolo_gradsafe.data.read.header import peek
from yolo_gradsafe.data.read.listing import is_image
from yolo_gradsafe.data.read.source import Item, Layout, Source

__all__ = ["CocoPart", "find_images", "read_coco"]

SAMPLE = 50
"""Images by which the folder of the images is told."""


@dataclass(frozen=True)
class CocoPart:
    """One split: its annotations, and the folder of its images where it is named."""

    split: str
    json: Path
    images: Path | None = None


def read_coco(path: Path, parts: list[CocoPart], task: str | None = None) -> Source:
    """Read a data set; entries that cannot be used become findings."""
    files = [load_json(part.json) for part in parts]
    source = Source(path, "coco", file=str(path), files=[part.json for part in parts])
    classes = _classes(files, source)
    points = _points(files)
    source.layout = Layout(len(source.names or {}), points, 3, task)
    for part, file, ids in zip(parts, files, classes, strict=True):
        items = _items(part, file)
        add_rows(file, items, ids, points)
        source.splits.setdefault(part.split, []).extend(items.values())
        source.found += file.found
    return source


def find_images(json: Path, names: list[str]) -> Path | None:
    """Find the folder of the images of a JSON: the one of the usual places that holds most of them."""
    stem = json.stem
    for word in ("instances_", "person_keypoints_", "annotations_", "_annotations"):
        stem = stem.replace(word, "")
    near, above = json.absolute().parent, json.absolute().parent.parent
    places = [near / "images", near, near / stem, near / "images" / stem]
    places += [above / stem, above / "images" / stem, above / "images", above]
    sample = names[:: max(1, len(names) // SAMPLE)]
    hits = [sum(os.path.isfile(place / name) for name in sample) for place in places]
    most = max(hits)
    return places[hits.index(most)] if most else None


def _classes(files: list[CocoFile], source: Source) -> list[dict[int | str, int]]:
    """Number the categories from 0, in the order of their ids; the same name in two files is the same class.

    Returns:
        Class by the id of the category, for each file.
    """
    order: dict[tuple[str, int], int] = {}
    points: dict[int, list[str]] = {}
    result = []
    for file in files:
        ids: dict[int | str, int] = {}
        seen = Counter[str]()
        for name, category in _by_id(file.categories):
            key = (category.name, seen[category.name])
            seen[category.name] += 1
            ids[name] = order.setdefault(key, len(order))
            points.setdefault(ids[name], list(category.keypoints))
        result.append(ids)
    source.names = {index: name for (name, _), index in order.items()}
    source.key_points = [points[index] for index in range(len(order))]
    return result


def _by_id(categories: dict[int | str, Category]) -> list[tuple[int | str, Category]]:
    """Return categories in the order of their ids, numbers before words."""
    numbers = sorted((name, category) for name, category in categories.items() if isinstance(name, int))
    words = sorted((name, category) for name, category in categories.items() if isinstance(name, str))
    return [*numbers, *words]


def _points(files: list[CocoFile]) -> int:
    """Return the keypoints an object: as the categories name them, or as the most annotations have them."""
    named = [len(category.keypoints) for file in files for category in file.categories.values()]
    if any(named):
        return max(named)
    lists = (entry.get("keypoints") for file in files for entry in file.annotations if isinstance(entry, dict))
    lengths = Counter(len(given) // 3 for given in lists if isinstance(given, list))
    return lengths.most_common(1)[0][0] if lengths else 0


def _items(part: CocoPart, file: CocoFile) -> dict[int | str, Item]:
    """Return the images by id, without those that are missing or of an unknown size."""
    names = [entry.name for entry in file.images.values()]
    folder = part.images or find_images(part.json, names)
    if names and folder is None:
        words = "none of its images was found beside or above it; name their folder"
        file.note("path_missing", words)
        return {}
    items: dict[int | str, Item] = {}
    files = Counter[str]()
    for entry in file.images.values():
        path = os.path.join(folder or "", entry.name)
        if not os.path.lexists(path) and os.path.isfile(short := os.path.join(folder or "", os.path.basename(path))):
            path = short
        files[path] += 1
        if files[path] > 1:
            file.note("image_id_duplicate", f"image {entry.id}: the file has another id already", image=path)
        if not is_image(entry.name):
            file.found.append(Found("image_format", f"image {entry.id}: '{entry.name}'", str(part.json), image=path))
        elif not os.path.lexists(path):
            file.found.append(Found("image_missing", f"image {entry.id}: no such file", str(part.json), image=path))
        else:
            size = (round(entry.width), round(entry.height))
            items[entry.id] = Item(path, size=size if all(size) else _header_size(path), name=entry.name)
    return items


def _header_size(path: str) -> tuple[int, int] | None:
    try:
        return peek(path).size
    except (OSError, ValueError):
        return None
