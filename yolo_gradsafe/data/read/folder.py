"""A folder: one data YAML in it, or COCO JSON, or images beside their labels."""

from __future__ import annotations

import os
from pathlib import Path

from yolo_gradsafe.data.findings import CheckError
from yolo_gradsafe.data.read.listing import label_of, list_images
from yolo_gradsafe.data.read.source import Item, Layout, Source

__all__ = ["find_description", "read_folder"]

TRIED = 200
"""Label files that are looked at to tell how many keypoints an object has."""


def find_description(folder: Path) -> Path | None:
    """Return the one data YAML of a folder, or its one JSON; None where there is neither.

    Raises:
        CheckError: There are several, and none is named like the folder or ``data``.
    """
    for pattern in ("*.y*ml", "*.json"):
        files = sorted(path for path in folder.glob(pattern) if os.path.isfile(path) and not path.name.startswith("."))
        named = [path for path in files if path.stem in (folder.name, "data")]
        if len(files) == 1 or len(named) == 1:
            return (named or files)[0]
        if files:
            names = ", ".join(path.name for path in files[:5])
            raise CheckError(
                f"{folder} holds {len(files)} files that may describe the data ({names}): name one of them"
            )
    return None


def read_folder(folder: Path) -> Source:
    """Read a folder of images and labels that no YAML describes: classes are not known, keypoints are told by look."""
    source = Source(folder, "folder", file=str(folder))
    images = folder / "images"
    root = images if os.path.isdir(images) else folder
    for place in (_folders(root) if root == images else []) or [root]:
        name = place.name if place != root else "train"
        source.splits[name] = [Item(image, label_of(image)) for image in list_images(place, source.found)]
    source.layout = Layout(points=_keypoints(source.items))
    return source


def _folders(root: Path) -> list[Path]:
    """Return the folders in a folder; none where it cannot be listed, which listing its images tells."""
    try:
        return [path for path in sorted(root.iterdir()) if os.path.isdir(path) and not path.name.startswith(".")]
    except OSError:
        return []


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
