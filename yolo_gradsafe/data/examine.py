"""Some images of a set, examined at once: labels parsed, every image file read and decoded no more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from yolo_gradsafe.data.checks.boxes import check_boxes
from yolo_gradsafe.data.checks.copies import Print, fingerprint
from yolo_gradsafe.data.checks.images import DecoderLog, Photo, check_npy, look, open_photo
from yolo_gradsafe.data.checks.keypoints import check_keypoints
from yolo_gradsafe.data.checks.objects import Objects, Problem, Rules
from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.kinds import KINDS
from yolo_gradsafe.data.label_row import lines, task_of, used_classes
from yolo_gradsafe.data.read.header import Header
from yolo_gradsafe.data.read.labels import read_label
from yolo_gradsafe.data.read.source import Item, Source
from yolo_gradsafe.data.worst_images import Tile, make_tile

__all__ = ["CROWDED", "WEIGHTS", "Examined", "disagree", "examine", "unusable"]

CROWDED = 1000
"""Objects in one image from which it is told."""
WEIGHTS = {"error": 100, "warning": 10, "note": 0}
"""What a kind of finding counts for an image to be among the worst."""


@dataclass
class Examined:
    """What was found in some images."""

    found: list[Found] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    """Objects of each image."""
    classes: Counter[int] = field(default_factory=Counter)
    """Objects by class."""
    written: int = 0
    """Objects of a JSON that a conversion makes a label of."""
    left: Counter[str] = field(default_factory=Counter)
    """Objects of a JSON that a conversion leaves out, by the kind of finding."""
    images_read: int = 0
    prints: list[Print] = field(default_factory=list)
    """What tells each image that was read from others, where there are several splits."""
    noisy: list[str] = field(default_factory=list)
    """Images that a decoder may have complained of."""
    tiles: list[Tile] = field(default_factory=list)
    """Pictures of the worst of them."""


def examine(
    items: Sequence[Item],
    source: Source,
    imgsz: int,
    read: Container[str],
    tiles: int,
    known: Counter[str],
    log: DecoderLog,
) -> Examined:
    """Examine some images.

    Args:
        items: The images.
        source: The set that they are of.
        imgsz: Training size, pixels.
        read: Images whose files are read; of the others only the labels are looked at.
        tiles: Pictures that are made at most.
        known: Weight of what the reader of the set found already, by image.
        log: What decoders print.
    """
    result = Examined()
    photos = {item.image: open_photo(item.image) for item in items if item.image in read}
    result.images_read = len(photos)
    rules = Rules(source.layout, imgsz, pixels=source.format == "coco")
    labels = [(item.rows, []) if source.format == "coco" else read_label(item, source.layout) for item in items]
    sizes = [_size(item, photos.get(item.image)) for item in items]
    table = Objects.gather([rows for rows, _ in labels], sizes, source.layout.points, imgsz)
    bad = np.zeros(len(table.label), dtype=bool)
    by_image: list[list[Found]] = [found for _, found in labels]
    with np.errstate(all="ignore"):  # absurd numbers are findings; that they overflow is not news
        problems = [*check_boxes(table, rules), *check_keypoints(table, rules)]
    for problem in problems:
        owner = int(table.owner[problem.row])
        bad[problem.row] |= KINDS[problem.kind].severity != "note"
        by_image[owner].append(_placed(problem, items[owner], source, table))
    result.objects = [len(rows) for rows, _ in labels]
    result.classes = Counter(table.label[np.abs(table.label) < 2**31].astype(int).tolist())
    for index, (item, found) in enumerate(zip(items, by_image, strict=True)):
        if result.objects[index] > CROWDED:
            words = f"{result.objects[index]} objects"
            found.append(Found("crowded", words, item.label or item.image, image=item.image))
        photo = photos.pop(item.image, None)
        pixels = None
        if source.format == "coco":
            _count(result, item, source, photo)
        if photo is not None:
            pixels, told = look(photo, source.channels, log)
            result.noisy += [item.image] if photo.noisy else []
            if len(source.splits) > 1:
                result.prints.append(fingerprint(item.image, photo.data, pixels))
            told = [*photo.told, *told, *disagree(item, photo.header), *check_npy(item.image)]
            found += [Found(kind, message, item.image, image=item.image) for kind, message in told]
        weight = _weight(found) + known[item.image]
        if photo is not None and tiles and weight:
            mine = table.owner == index
            made = make_tile(item.image, weight, pixels, table.box[mine], table.points[mine], bad[mine], _words(found))
            result.tiles = sorted([*result.tiles, made], key=Tile.rank)[:tiles]
        result.found += found
    return result


def unusable(item: Item, photo: Photo | None) -> list[tuple[str, str]]:
    """Return why no object of an image can be trained on, as kind and message."""
    if photo is None:
        return []
    if photo.header is None:
        return photo.told
    return disagree(item, photo.header)


def _count(result: Examined, item: Item, source: Source, photo: Photo | None) -> None:
    """Count what a conversion would make of the objects of an image."""
    if why := unusable(item, photo):
        result.left[why[0][0]] += len(item.rows)
        return
    task = task_of(source)
    written, left = lines(item, source, used_classes(source, task), task)
    result.written += len(written)
    result.left.update(one.kind for one in left)


def _size(item: Item, photo: Photo | None) -> tuple[int, int] | None:
    return item.size or (photo.header.size if photo is not None and photo.header is not None else None)


def disagree(item: Item, header: Header | None) -> list[tuple[str, str]]:
    """Tell whether a file has other proportions than its annotations say; if only its scale differs, shares hold."""
    if item.size is None or header is None or item.size == header.size:
        return []
    (w, h), (width, height) = item.size, header.size
    if abs(w * height - h * width) <= 0.01 * h * width:
        return []
    turned = "; its EXIF data turn it" if header.turned and (h, w) == (width, height) else ""
    return [("image_size", f"annotations say {w} x {h}, the file is {width} x {height}{turned}")]


def _placed(problem: Problem, item: Item, source: Source, table: Objects) -> Found:
    place = table.rows[problem.row].place
    if source.format == "coco":
        return Found(problem.kind, problem.message, source.file, annotation=place, image=item.image)
    return Found(problem.kind, problem.message, item.label, int(place), image=item.image)


def _weight(found: list[Found]) -> int:
    kinds = {one.kind for one in found}
    return sum(WEIGHTS[KINDS[kind].severity] for kind in kinds)


def _words(found: list[Found]) -> str:
    kinds = Counter(one.kind for one in found if KINDS[one.kind].severity != "note")
    worst = sorted(kinds, key=lambda kind: KINDS[kind].severity)
    return ", ".join(f"{kinds[kind]} {kind}" if kinds[kind] > 1 else kind for kind in worst)
