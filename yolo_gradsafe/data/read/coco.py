"""A data set of COCO JSON files, one or more a split, with their images."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.annotations import OUTLINED, Asked, add_rows
from yolo_gradsafe.data.read.coco_json import Category, CocoFile, Id, ImageEntry, load_json
from yolo_gradsafe.data.read.find_images import ImageFinder, Match, claims
from yolo_gradsafe.data.read.header import peek
from yolo_gradsafe.data.read.listing import is_image
from yolo_gradsafe.data.read.source import Item, Layout, Source

__all__ = ["CocoPart", "CocoPlan", "read_coco"]

ADVICE = (
    "name their folder: 'gradsafe check {json} --images FOLDER'; to train, a YAML with 'train: {json}, images: FOLDER'"
)


@dataclass(frozen=True)
class CocoPart:
    """One JSON of a split, and the folder of its images where it is named."""

    split: str
    json: Path
    images: Path | None = None


@dataclass(frozen=True)
class CocoPlan:
    """A data set of COCO JSONs as the user describes it."""

    parts: list[CocoPart]
    held_out: float | None = None
    """Share of the training images that are validated on, where no part is."""
    asked: Asked = field(default_factory=Asked)
    names: list[str] | None = None
    """Classes in the order of their numbers; the order of the categories' ids where it is not given."""
    flip_idx: list[int] | None = None
    found: list[Found] = field(default_factory=list)
    """What is wrong with the description."""


def read_coco(path: Path, plan: CocoPlan, task: str | None = None, splits: Sequence[str] = ()) -> Source:
    """Read a data set.

    Args:
        path: What the user named.
        plan: Which JSONs it is made of.
        task: Ultralytics' task, where it is known.
        splits: Splits that are read; all without any.
    """
    with _no_collection():
        return _read(path, plan, [part for part in plan.parts if not splits or part.split in splits], task)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking for garbage: among millions of new objects that takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(path: Path, plan: CocoPlan, parts: list[CocoPart], task: str | None) -> Source:
    files = [load_json(part.json) for part in parts]
    source = Source(path, "coco", file=str(path), files=[part.json for part in parts], found=list(plan.found))
    classes = _classes(files, source, plan.names)
    points = 0 if task in ("detect", "segment", "obb") else _points(files, source)
    source.layout = Layout(len(source.names or {}), points, 3, task)
    source.flip_idx = plan.flip_idx
    for part, file, ids, items in zip(parts, files, classes, _find(parts, files), strict=True):
        source.annotations += len(file.annotations)
        add_rows(file, items, ids, source.layout, plan.asked)
        _merge(source, part.split, items.values())
        if file.as_text:
            words = f"{len(file.as_text)} times numbers stand as text or ids in another form, such as {file.as_text[0]}"
            file.note("json_text", f"{words}; they are read")
        source.found += file.found
        source.left += file.left
    rows = [row for item in source.items for row in item.rows]
    if task == "pose" and not points:
        source.note("task_keypoints", "no category has keypoints, and no annotation either")
    if task in OUTLINED and rows and not any(row.outline or row.rotation is not None for row in rows):
        source.note("task_outlines", f"none of {len(rows)} objects has an outline (segmentation)")
    return source


def _merge(source: Source, split: str, items: Iterable[Item]) -> None:
    """Add images to a split; one that is there already, from another JSON, gets the objects of both."""
    there = {os.path.abspath(item.image): item for item in source.splits.setdefault(split, [])}
    for item in {id(item): item for item in items}.values():
        other = there.setdefault(os.path.abspath(item.image), item)
        if other is item:
            source.splits[split].append(item)
        else:
            other.rows += item.rows


def _classes(files: list[CocoFile], source: Source, names: list[str] | None) -> list[dict[Id, int]]:
    """Number the categories from 0, in the order of their ids; the same name in two files is the same class.

    Returns:
        Class by the id of the category, for each file; -1 for an id that two categories share.
    """
    order: dict[tuple[str, int], int] = {(name, 0): k for k, name in enumerate(names or ())}
    points: dict[int, list[str]] = {}
    result = []
    for file in files:
        ids: dict[Id, int] = {}
        seen = Counter[str]()
        for name, category in _by_id(file.categories):
            key = (category.name, seen[category.name])
            seen[category.name] += 1
            if names is not None and key not in order:
                source.note("yaml_key", f"'names' lacks the category '{category.name}' of {file.path.name}")
            ids[name] = -1 if name in file.shared else order.setdefault(key, len(order))
            points.setdefault(order.get(key, -1), list(category.keypoints))
        result.append(ids)
    _tell_names(files, source)
    source.names = {index: name for (name, _), index in order.items()}
    source.key_points = [points.get(index, []) for index in range(len(order))]
    return result


def _tell_names(files: list[CocoFile], source: Source) -> None:
    """Tell categories of one name in a file, and names that differ in letter case and spaces alone."""
    alike: dict[str, dict[tuple[str, int], str]] = {}
    for file in files:
        seen = Counter[str]()
        for name, category in _by_id(file.categories):
            key = (category.name, seen[category.name])
            seen[category.name] += 1
            plain = "".join(category.name.casefold().split())
            alike.setdefault(plain, {}).setdefault(key, f"'{category.name}' (id {name})")
    for group in alike.values():
        if len(group) > 1:
            source.note("category_same_name", f"{' and '.join(group.values())} are {len(group)} classes")


def _by_id(categories: dict[Id, Category]) -> list[tuple[Id, Category]]:
    """Return categories in the order of their ids, numbers before words."""
    numbers = sorted((name, category) for name, category in categories.items() if isinstance(name, int))
    words = sorted((name, category) for name, category in categories.items() if isinstance(name, str))
    return [*numbers, *words]


def _points(files: list[CocoFile], source: Source) -> int:
    """Return the keypoints an object: as the categories name them, or as most annotations have them if that is more."""
    named = max((len(category.keypoints) for file in files for category in file.categories.values()), default=0)
    lists = (entry.get("keypoints") for file in files for entry in file.annotations if isinstance(entry, dict))
    lengths = Counter(_length(given) for given in lists if isinstance(given, list) and given)
    if not lengths:
        return named
    usual, count = lengths.most_common(1)[0]
    if not named or usual <= named:
        return named or usual
    if count <= sum(lengths.values()) / 2:
        return named
    source.note("keypoint_names", f"the categories name {named} keypoints, most annotations have {usual}")
    return usual


def _length(keypoints: list[object]) -> int:
    return len(keypoints) if all(isinstance(point, list) for point in keypoints) else len(keypoints) // 3


def _find(parts: list[CocoPart], files: list[CocoFile]) -> list[dict[Id, Item]]:
    """Return the images of each file by id; of those that cannot be used the file knows why."""
    found: dict[tuple[int, Id], Match] = {}
    folders = []
    for index, (part, file) in enumerate(zip(parts, files, strict=True)):
        entries = _usable(file)
        finder = ImageFinder(part.json, [entry.name for entry in entries], part.images)
        folders.append(finder.folder)
        if entries and finder.folder is None:
            words = f"none of its {len(entries)} images was found beside or above it, such as '{entries[0].name}'"
            file.note("path_missing", f"{words}; {ADVICE.format(json=part.json.name)}")
        found |= {(index, entry.id): match for entry in entries if (match := finder.find(entry.name))}
    matches = [(files[index].images[name].name, match) for (index, name), match in found.items()]
    answers = dict(zip(found, claims(matches), strict=True))
    result = []
    for index, (file, folder) in enumerate(zip(files, folders, strict=True)):
        items: dict[Id, Item] = {}
        if folder is None:
            file.lost |= {entry.id: file.found[-1] for entry in _usable(file)}
        for entry in _usable(file):
            match = found.get((index, entry.id))
            path = match.path if match else os.path.join(folder or file.path.parent, entry.name)
            if item := _item(file, entry, path, match is not None, answers.get((index, entry.id), "")):
                items[entry.id] = item
        result.append(_unite(file, items))
    return result


def _usable(file: CocoFile) -> list[ImageEntry]:
    return [entry for entry in file.images.values() if entry.id not in file.lost]


def _item(file: CocoFile, entry: ImageEntry, path: str, there: bool, rival: str) -> Item | None:
    """Return an image, None where it cannot be used."""
    if not is_image(path):
        file.lose(entry.id, "image_format", f"image {entry.id}: '{entry.name}'", path)
    elif not there:
        file.lose(entry.id, "image_missing", f"image {entry.id}, '{entry.name}': no such file", path)
    elif rival:
        file.lose(entry.id, "image_ambiguous", f"image {entry.id}: {rival}", path)
    else:
        stated = (round(entry.width), round(entry.height))
        size = stated if all(stated) else _header_size(path)
        if size is not None:
            return Item(path, size=size, name=entry.name)
        file.lose(entry.id, "image_unreadable", f"image {entry.id}, '{entry.name}': no size is stated or found", path)
    return None


def _unite(file: CocoFile, items: dict[Id, Item]) -> dict[Id, Item]:
    """Return the images with one for each file: two ids of the same name share it."""
    first: dict[str, Item] = {}
    result = {}
    for name, item in items.items():
        one = first.setdefault(os.path.abspath(item.image), item)
        if one.size != item.size:
            words = f"image {name}: '{item.name}' is listed twice, with {one.size} and with {item.size} pixels"
            file.lose(name, "image_ambiguous", words, item.image)
            continue
        if one is not item:
            file.note("image_merged", f"image {name}: '{item.name}' has another id already", image=item.image)
        result[name] = one
    return result


def _header_size(path: str) -> tuple[int, int] | None:
    try:
        return peek(path).size
    except (OSError, ValueError):
        return None
