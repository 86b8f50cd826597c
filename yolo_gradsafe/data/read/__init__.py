"""Readers: a YOLO data YAML, a COCO JSON, a small YAML of JSONs or a folder, all as one ``Source``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolo_gradsafe.data.findings import CheckError
from yolo_gradsafe.data.read.coco import CocoPlan, read_coco
from yolo_gradsafe.data.read.coco_set import names_coco, plan_of_folder, plan_of_json, plan_of_yaml
from yolo_gradsafe.data.read.find_images import split_of
from yolo_gradsafe.data.read.folder import find_yaml, read_folder
from yolo_gradsafe.data.read.foreign import name_file
from yolo_gradsafe.data.read.source import Item, Layout, Row, Source
from yolo_gradsafe.data.read.yolo_yaml import SPLITS, load_yaml, read_mapping

__all__ = ["SPLITS", "Item", "Layout", "Row", "Source", "find_data", "find_plan", "open_data"]

PARTS = ("images", "annotations", "labels", "data")
"""Folders that are a part of a data set, not all of it."""
Data = str | Path | Mapping[str, Any]


def open_data(
    data: Data, images: Path | None = None, splits: tuple[str, ...] = SPLITS, task: str | None = None
) -> Source:
    """Read what there is of a data set: which images, where their objects are; label files and images come later.

    Args:
        data: A data YAML, a COCO JSON, a YAML that names COCO JSONs, a folder, the name of one of Ultralytics' data
            YAMLs, or the content of a data YAML.
        images: Folder of the images of a JSON; found beside it where it is not given.
        splits: Splits that are read.
        task: Ultralytics' task, where it is known.

    Raises:
        CheckError: There is no such file or folder.
    """
    if isinstance(data, Mapping):
        return read_mapping(data, Path(str(data.get("yaml_file") or "data.yaml")), splits, task)
    path = find_data(data)
    if plan := find_plan(path, images, task):
        return read_coco(path, plan, task, splits)
    if path.is_dir():
        inside = find_yaml(path)
        if inside is None:
            return read_folder(path)
        path = inside
    broken = Source(path, "yolo", file=str(path), files=[path])
    if told := name_file(path):
        broken.note("foreign_format", told)
        return broken
    try:
        values = load_yaml(path)
        if not isinstance(values, Mapping):
            raise CheckError(f"holds {type(values).__name__}, expected keys such as train, val and names")
    except CheckError as error:
        broken.note("yaml_syntax", str(error))
        return broken
    return read_mapping(values, path, splits, task)


def find_plan(path: Path, images: Path | None = None, task: str | None = None) -> CocoPlan | None:
    """Return which COCO JSONs a data set is made of; None where it is something else.

    Raises:
        CheckError: A folder holds several descriptions, and nothing tells which is meant.
    """
    if os.path.isdir(path):
        inside = find_yaml(path)
        return find_plan(inside, images) if inside else plan_of_folder(path, task, images)
    ending = path.suffix.lower()
    if ending == ".json":
        return plan_of_json(path, images)
    if ending not in (".yaml", ".yml"):
        return None
    try:
        values = load_yaml(path)
    except CheckError:
        return None
    return plan_of_yaml(values, path) if isinstance(values, Mapping) and names_coco(values) else None


def find_data(data: str | Path) -> Path:
    """Return the path of a data set, where Ultralytics would find it too, downloads excepted.

    Raises:
        CheckError: There is no such file or folder.
    """
    path = Path(data)
    try:
        if path.exists():
            return _unwrapped(path)
        package = find_spec("ultralytics")
        names = [path.name] if path.suffix else [f"{path.name}.yaml"]
        if package and package.submodule_search_locations and path.name == str(path):
            shipped = Path(next(iter(package.submodule_search_locations)), "cfg", "datasets")
            for name in names:
                if (shipped / name).is_file():
                    return shipped / name
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckError(f"{data!s}: {error}") from None
    raise CheckError(f"{data!s}: no such file or folder")


def _unwrapped(path: Path) -> Path:
    """Return the folder in a folder that holds nothing else, as unpacking an archive leaves it."""
    while path.is_dir():
        inside = [entry for entry in path.iterdir() if entry.name[0] != "." and entry.name != "__MACOSX"]
        if len(inside) != 1 or not inside[0].is_dir() or split_of(inside[0].name) or inside[0].name in PARTS:
            break
        path = inside[0]
    return path
