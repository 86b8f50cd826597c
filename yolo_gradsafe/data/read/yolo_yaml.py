"""Ultralytics' data YAML: where the images are, what the classes are called, how keypoints are written.

Read here and not by Ultralytics' ``check_det_dataset``, because that downloads what is missing, runs the code that a
YAML names as its download, and stops at the first mistake.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from yolo_gradsafe.data.findings import CheckError
from yolo_gradsafe.data.read.files import read_bytes, reason
from yolo_gradsafe.data.read.listing import label_of, list_images
from yolo_gradsafe.data.read.source import Item, Layout, Source

__all__ = ["SPLITS", "load_yaml", "read_mapping"]

SPLITS = ("train", "val", "test")


def load_yaml(file: Path) -> Any:
    """Read a YAML file.

    Raises:
        CheckError: It cannot be read, or is no YAML; the message says where.
    """
    try:
        return yaml.load(read_bytes(str(file)), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise CheckError(reason(error)) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise CheckError(f"not YAML: {where}{getattr(error, 'problem', None) or error}") from None


def read_mapping(values: Mapping[str, Any], file: Path, splits: tuple[str, ...], task: str | None) -> Source:
    """Read a data set from the content of its YAML, whose folder other paths may be relative to."""
    source = Source(file, "yolo", file=str(file), files=[file])
    source.names, count = _names(values, source)
    points, dims = _keypoints(values, source)
    source.layout = Layout(count, points, dims, task)
    source.flip_idx = values.get("flip_idx")
    channels = values.get("channels", 3)
    source.channels = channels if isinstance(channels, int) else 3
    root = _root(values.get("path"), file)
    values = {**values, "val": values.get("val", values.get("validation"))}
    for split in splits:
        given = values.get(split)
        if given is None or given == "":
            if split != "test":
                source.note("yaml_key", f"'{split}' is missing: Ultralytics needs train and val")
            continue
        items: dict[str, Item] = {}
        there = True
        for place in given if isinstance(given, list) else [given]:
            if not isinstance(place, (str, Path)):
                source.note("yaml_key", f"'{split}' holds {place!r}, expected a path")
                continue
            path = _resolve(root, str(place))
            if split == "test" and not os.path.exists(path):
                source.note("test_missing", f"{path} is not there")
                there = False
            else:
                items |= _items(path, str((root / place).absolute()), source)
        if there or items:
            source.splits[split] = list(items.values())
    if task == "pose" and not points and not any(one.kind == "kpt_shape" for one in source.found):
        source.note("task_keypoints", "kpt_shape is missing")
    return source


def _items(path: Path, named: str, source: Source) -> dict[str, Item]:
    """Return the images of a folder or list by their path; ``named`` is what it is called before links are followed."""
    images = list_images(path, source.found)
    if named == str(path):
        return {image: Item(image, label_of(image)) for image in images}
    below = str(path)
    labels = [label_of(image.replace(below, named, 1)) if image.startswith(below) else "" for image in images]
    return {image: Item(image, label_of(image), named=label) for image, label in zip(images, labels, strict=True)}


def _root(given: object, file: Path) -> Path:
    """Return the folder that the splits are relative to, as Ultralytics finds it."""
    root = Path(given) if isinstance(given, (str, Path)) and str(given) else file.parent
    if not os.path.exists(root) and not root.is_absolute():
        beside = file.parent / root
        if os.path.exists(beside):
            return beside
        from yolo_gradsafe.adapter.arguments import datasets_folder  # imports torch: only where nothing else is left

        root = datasets_folder() / root
    return root


def _resolve(root: Path, place: str) -> Path:
    path = (root / place).absolute()
    if not os.path.exists(path) and place.startswith("../"):
        path = (root / place[3:]).absolute()
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # no place that can be: listing it says so
        return path


def _names(values: Mapping[str, Any], source: Source) -> tuple[dict[int, str] | None, int | None]:
    """Return the names of the classes and their number; None where the YAML does not say."""
    names, count = values.get("names"), values.get("nc")
    if names is None:
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return {k: f"class_{k}" for k in range(count)}, count
        source.note("yaml_key", "'names' is missing: Ultralytics needs names or nc")
        return None, None
    try:
        if not isinstance(names, (list, dict)):
            raise TypeError
        named = {int(k): str(v) for k, v in (names.items() if isinstance(names, dict) else enumerate(names))}
    except (TypeError, ValueError):
        source.note("yaml_key", f"'names' is {str(names)[:60]!r}, expected a list or a mapping from class id to name")
        return None, None
    if sorted(named) != list(range(len(named))) or not named:
        source.note("yaml_key", f"'names' has {len(named)} classes, but their ids are not 0 to {len(named) - 1}")
    if count is not None and count != len(named):
        source.note("yaml_key", f"'names' has {len(named)} classes, 'nc' says {count!r}")
    return named, len(named)


def _keypoints(values: Mapping[str, Any], source: Source) -> tuple[int, int]:
    """Return the keypoints an object and the numbers a keypoint; 0 and 3 where there are none."""
    shape = values.get("kpt_shape")
    if shape is None:
        return 0, 3
    whole = isinstance(shape, (list, tuple)) and len(shape) == 2 and all(type(n) is int for n in shape)
    if whole and shape[0] > 0 and shape[1] in (2, 3):
        return shape[0], shape[1]
    source.note("kpt_shape", f"kpt_shape is {shape!r}, expected [number of keypoints, 2 or 3]")
    return 0, 3
