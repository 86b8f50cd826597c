"""COCO JSON to a data YAML with label files, once for the same content.

Ultralytics' ``convert_coco`` does not serve here: it takes ``category_id - 1`` (or COCO's table) for the class, ends at
the first annotation that is not as it should be, drops others without a word, leaves boxes beyond the image as they
are, and writes neither the data YAML, the names, ``kpt_shape``, ``flip_idx`` nor the images. What it decides is decided
alike: crowd regions are left out, and for pose objects without a labelled keypoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from yolo_gradsafe.data.convert.write import SUMMARY, write_set
from yolo_gradsafe.data.findings import CheckError
from yolo_gradsafe.data.place import cache_folder
from yolo_gradsafe.data.read import find_data
from yolo_gradsafe.data.read.coco import CocoPart, read_coco
from yolo_gradsafe.data.read.coco_yaml import coco_parts
from yolo_gradsafe.data.read.files import read_bytes, reason
from yolo_gradsafe.data.read.folder import find_description
from yolo_gradsafe.data.read.yolo_yaml import load_yaml

__all__ = ["PrepareError", "Prepared", "is_coco", "prepare"]

TASKS = ("detect", "pose")
FORMAT = 1
"""Raised when a conversion of the same file would come out otherwise."""


class PrepareError(ValueError):
    """Annotations that cannot be made into a training set; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """A training set made of COCO JSON."""

    data: Path
    """The data YAML, for Ultralytics."""
    fresh: bool
    """Whether it was converted now, and not before."""
    notes: list[str]
    """What a user should know, sentences."""


def is_coco(data: object) -> bool:
    """Tell whether data are COCO JSON, which Ultralytics does not train on: a JSON, or a YAML of JSONs."""
    if not isinstance(data, (str, Path)) or os.path.isdir(data):
        return False
    try:
        return bool(_parts(find_data(data))[0])
    except (CheckError, OSError):
        return False


def prepare(
    annotations: str | Path,
    task: str,
    *,
    images: Path | None = None,
    cache: Path | None = None,
    split: float | None = None,
) -> Prepared:
    """Make a training set of COCO JSON, or return the one that was made of the same content before.

    Annotations that cannot be trained on are left out and listed in ``left_out.csv`` beside the data YAML. Images are
    linked. A lone JSON is the training set; validated is on its sibling where there is one
    (``instances_val2017.json`` beside ``instances_train2017.json``, ``valid/x.json`` beside ``train/x.json``), on a
    part of it with ``split``, and else on itself.

    Args:
        annotations: A COCO JSON, a folder that holds one, or a YAML that names them by split:
            ``train: train.json`` or ``train: {annotations: train.json, images: folder}``.
        task: ``detect`` or ``pose``.
        images: Folder of the images of a JSON; found beside it where it is not given.
        cache: Folder that sets are kept in; the user's cache folder without it.
        split: Share of the images of a lone JSON that is held out for validation, in (0, 1); the same ones every
            time.

    Raises:
        CheckError: There is no such file.
        OSError: The set cannot be written.
        PrepareError: Nothing in the annotations can be trained on, or the task has no conversion.
    """
    if task not in TASKS:
        raise PrepareError(f"task '{task}': COCO JSON is converted for {' and '.join(TASKS)} only")
    path = find_data(annotations)
    parts, share = _parts(path, images)
    split = share if split is None else split
    if not parts:
        raise PrepareError(f"{path} names no COCO JSON")
    if split is not None and not 0 < split < 1:
        raise PrepareError(f"split is {split!r}, expected a share between 0 and 1")
    folder = cache_folder("coco", cache).absolute() / f"{path.stem}-{_key(parts, task, split)}"
    if not (kept := _kept(folder)):
        source = read_coco(path, parts, task)
        with TemporaryDirectory(prefix=f".{folder.name[:40]}-", dir=folder.parent) as room:
            fresh = Path(room, "fresh")
            problem = write_set(source, fresh, folder, task, split)
            if problem:
                raise PrepareError(f"{path}: {problem}")
            _move(fresh, folder, Path(room, "old"))
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return Prepared(folder / "data.yaml", not kept, summary["notes"])


def _parts(path: Path, images: Path | None = None) -> tuple[list[CocoPart], float | None]:
    """Return the splits of COCO JSON, none where the data are something else, and the share that is held out."""
    if os.path.isdir(path):
        path = find_description(path) or path
    if path.suffix.lower() == ".json":
        parts = [CocoPart("train", path, images)]
        return parts + [CocoPart("val", sibling) for sibling in _siblings(path)][:1], None
    if path.suffix.lower() not in (".yaml", ".yml"):
        return [], None
    values = load_yaml(path)
    if not isinstance(values, Mapping):
        return [], None
    share = values.get("split")
    return coco_parts(values, path), float(share) if isinstance(share, (int, float)) else None


def _move(fresh: Path, folder: Path, old: Path) -> None:
    """Put a new set in place; where another process did so meanwhile, its set serves as well."""
    try:
        if folder.exists():
            folder.replace(old)
        fresh.replace(folder)
    except OSError:
        if not _kept(folder):
            raise


def _siblings(path: Path) -> list[Path]:
    """Return the validation JSONs that lie beside a training one."""
    places = [path.with_name(path.name.replace("train", "val"))]
    if path.parent.name == "train":
        places += [path.parent.with_name(name) / path.name for name in ("val", "valid")]
    return [place for place in places if place != path and os.path.isfile(place)]


def _key(parts: list[CocoPart], task: str, split: float | None) -> str:
    """Return a hash of what the set depends on, but for which images are there."""
    digest = hashlib.sha256(f"{FORMAT} {task} {split}".encode())
    for part in parts:
        digest.update(f"\0{part.split}\0{part.json.absolute()}\0{part.images}\0".encode("utf-8", "surrogateescape"))
        try:
            digest.update(hashlib.sha256(read_bytes(str(part.json))).digest())
        except (OSError, ValueError) as error:
            raise PrepareError(f"{part.json} {reason(error)}") from None
    return digest.hexdigest()[:16]


def _kept(folder: Path) -> bool:
    """Tell whether a set is whole: no link leads nowhere, and no image that was missing has come."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if any(os.path.exists(image) for image in summary["missing"]):
            return False
        linked = [entry for place in os.scandir(folder / "images") for entry in os.scandir(place.path)]
        return len(linked) == summary["images"] and all(entry.is_file() for entry in linked)
    except (OSError, ValueError, KeyError, TypeError):
        return False
