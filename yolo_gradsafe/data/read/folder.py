"""A folder: a data YAML in it, or images beside their labels as YOLO exports without a YAML have them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from yolo_gradsafe.data.findings import CheckError
from yolo_gradsafe.data.read.files import read_bytes
from yolo_gradsafe.data.read.find_images import SPLITS, folders, split_of
from yolo_gradsafe.data.read.foreign import name_folder
from yolo_gradsafe.data.read.listing import label_of, list_images
from yolo_gradsafe.data.read.source import Item, Layout, Source
from yolo_gradsafe.data.read.yolo_yaml import load_yaml

__all__ = ["NAME_FILES", "find_yaml", "read_folder", "split_folders"]

TRIED = 200
"""Label files that are looked at to tell how many keypoints an object has."""
NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "labels/train/classes.txt", "train/classes.txt")
"""Where exports without a YAML name their classes, a line each."""


def find_yaml(folder: Path) -> Path | None:
    """Return the one data YAML of a folder; None where there is none.

    Raises:
        CheckError: There are several, and none is named like the folder or ``data``.
    """
    files = sorted(path for path in folder.glob("*.y*ml") if os.path.isfile(path) and not path.name.startswith("."))
    if len(files) > 1:
        files = [path for path in files if _describes(path)] or files
    named = [path for path in files if path.stem in (folder.name, "data")]
    if len(files) == 1 or len(named) == 1:
        return (named or files)[0]
    if files:
        names = ", ".join(path.name for path in files[:5])
        raise CheckError(f"{folder} holds {len(files)} files that may describe the data ({names}): name one of them")
    return None


def read_folder(folder: Path) -> Source:
    """Read a folder of images and labels that no YAML describes: keypoints are told by look."""
    source = Source(folder, "folder", file=str(folder))
    for split, places in split_folders(folder).items():
        images = [image for place in places for image in list_images(place, source.found)]
        source.splits[split] = [Item(image, label_of(image)) for image in images]
    if not any(os.path.isfile(item.label) for item in source.items) and (told := name_folder(folder)):
        source.note("foreign_format", told)
    source.names = _names(folder)
    source.layout = Layout(len(source.names) if source.names else None, points=_keypoints(source.items))
    return source


def split_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of images by split; all of it is for training where nothing names a split."""
    images = folder / "images"
    root = images if os.path.isdir(images) else folder
    splits: dict[str, list[Path]] = {}
    for place in folders(root):
        if split := split_of(place.name):
            inner = place / "images"
            splits.setdefault(split, []).append(inner if os.path.isdir(inner) else place)
    return {split: splits[split] for split in SPLITS if split in splits} if "train" in splits else {"train": [root]}


def _describes(path: Path) -> bool:
    try:
        values = load_yaml(path)
    except CheckError:
        return False
    return isinstance(values, Mapping) and "train" in values


def _names(folder: Path) -> dict[int, str] | None:
    for name in NAME_FILES:
        try:
            lines = read_bytes(str(folder / name)).decode("utf-8-sig").splitlines()
        except (OSError, ValueError):
            continue
        return {k: line.strip() for k, line in enumerate(lines) if line.strip()} or None
    return None


def _keypoints(items: list[Item]) -> int:
    """Return the keypoints an object: where all rows are equally long, and every third number is 0, 1 or 2."""
    lengths, flags = set(), set()
    for item in items[:TRIED]:
        try:
            with open(item.label, encoding="utf-8-sig", errors="replace") as file:
                rows = [line.split() for line in file]
        except (OSError, ValueError):
            continue
        lengths |= {len(row) for row in rows if row}
        flags |= {word for row in rows for word in row[7::3]}
    columns = lengths.pop() if len(lengths) == 1 else 0
    whole = columns > 5 and columns % 3 == 2
    return (columns - 5) // 3 if whole and {flag.removesuffix(".0") for flag in flags} <= {"0", "1", "2"} else 0
