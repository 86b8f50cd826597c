"""COCO JSON to a data YAML with label files, once for the same content; and a data YAML for a folder without one.

Ultralytics' ``convert_coco`` does not serve here: it takes ``category_id - 1`` (or COCO's table) for the class, ends at
the first annotation that is not as it should be, drops others without a word, leaves boxes beyond the image as they
are, and writes neither the data YAML, the names, ``kpt_shape``, ``flip_idx`` nor the images. What it decides is decided
alike: crowd regions are left out, and for pose objects without a labelled keypoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from yolo_gradsafe.data.convert.write import SUMMARY, write_set
from yolo_gradsafe.data.findings import CheckError
from yolo_gradsafe.data.health import TASKS
from yolo_gradsafe.data.place import cache_folder
from yolo_gradsafe.data.read import find_data, find_plan
from yolo_gradsafe.data.read.coco import CocoPlan, read_coco
from yolo_gradsafe.data.read.files import read_bytes, reason
from yolo_gradsafe.data.read.folder import NAME_FILES, find_yaml, read_folder, split_folders
from yolo_gradsafe.data.read.foreign import name_file

__all__ = ["PrepareError", "Prepared", "for_training", "prepare"]

FORMAT = 2
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


def for_training(data: object, task: str, cache: Path | None = None) -> Prepared | None:
    """Return the data YAML of data that Ultralytics does not train on as they are; None where it does.

    These are COCO JSON (a JSON, a YAML of JSONs, the folder of an export) and folders: of one that holds a data YAML it
    is that, of one with label files and the names of its classes one is written.

    Args:
        data: ``data=`` of a training.
        task: Ultralytics' task.
        cache: Folder that sets are kept in; the user's cache folder without it.

    Raises:
        CheckError: A folder holds several descriptions.
        OSError: The set cannot be written.
        PrepareError: Nothing in the data can be trained on.
    """
    if not isinstance(data, (str, Path)) or task not in TASKS:
        return None
    try:
        path = find_data(data)
    except CheckError:
        return None  # Ultralytics may download it
    if find_plan(path, None, task) is not None:
        return prepare(path, task, cache=cache)
    if told := name_file(path):
        raise PrepareError(f"{path}: {told}")
    if not os.path.isdir(path):
        return None
    inside = find_yaml(path)
    return Prepared(inside, False, [f"data={path}: taking {inside}"]) if inside else _describe(path, task, cache)


def _describe(folder: Path, task: str, cache: Path | None) -> Prepared:
    """Write the data YAML of a folder of images and label files."""
    source = read_folder(folder)
    for one in source.found:
        if one.kind == "foreign_format":
            raise PrepareError(f"{folder}: {one.message}")
    if not any(os.path.isfile(item.label) for item in source.items):
        raise PrepareError(f"{folder} holds no data YAML, no COCO JSON, and no label files for its images")
    if source.names is None:
        raise PrepareError(
            f"{folder} holds labels, but nothing names their classes: write {NAME_FILES[0]} (a name a line), or a data "
            "YAML with path, train, val and names"
        )
    values: dict[str, object] = {"path": str(folder.absolute())}
    values |= {split: [str(place.absolute()) for place in places] for split, places in split_folders(folder).items()}
    notes = [f"{folder} has no data YAML: one was made of its folders and the names of its classes"]
    if "val" not in values:
        values["val"] = values["train"]
        notes.append("validation runs on the training images, as there are no others: its metrics look too good")
    values["names"] = source.names
    if task == "pose" and source.layout.points:
        values["kpt_shape"] = [source.layout.points, 3]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = cache_folder("folders", cache).absolute() / f"{folder.absolute().name}-{key}.yaml"
    fresh = not path.is_file()
    path.write_text(f"# Made by gradsafe of a folder\n{text}", encoding="utf-8")
    return Prepared(path, fresh, notes)


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
        task: ``detect``, ``pose``, ``segment`` or ``obb``.
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
        raise PrepareError(f"task '{task}': COCO JSON is converted for {', '.join(TASKS)} only")
    path = find_data(annotations)
    plan = find_plan(path, images, task)
    if plan is None or not (plan.parts or plan.found):
        raise PrepareError(f"{path} names no COCO JSON")
    split = plan.held_out if split is None else split
    if split is not None and not 0 < split < 1:
        raise PrepareError(f"split is {split!r}, expected a share between 0 and 1")
    folder = cache_folder("coco", cache).absolute() / f"{path.absolute().stem}-{_key(plan, task, split)}"
    if not (kept := _kept(folder)):
        source = read_coco(path, plan, task)
        with TemporaryDirectory(prefix=f".{folder.name[:40]}-", dir=folder.parent) as room:
            fresh = Path(room, "fresh")
            problem = write_set(source, fresh, folder, task, split)
            if problem:
                raise PrepareError(f"{path}: {problem}")
            _move(fresh, folder, Path(room, "old"))
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return Prepared(folder / "data.yaml", not kept, summary["notes"])


def _move(fresh: Path, folder: Path, old: Path) -> None:
    """Put a new set in place; where another process did so meanwhile, its set serves as well."""
    try:
        if folder.exists():
            folder.replace(old)
        fresh.replace(folder)
    except OSError:
        if not _kept(folder):
            raise


def _key(plan: CocoPlan, task: str, split: float | None) -> str:
    """Return a hash of what the set depends on, but for which images are there."""
    digest = hashlib.sha256(f"{FORMAT} {task} {split} {plan.asked} {plan.names} {plan.flip_idx}".encode())
    for part in plan.parts:
        digest.update(f"\0{part.split}\0{part.json.absolute()}\0{part.images}\0".encode("utf-8", "surrogateescape"))
        try:
            digest.update(hashlib.sha256(read_bytes(str(part.json))).digest())
        except (OSError, ValueError) as error:
            raise PrepareError(f"{part.json} {reason(error)}") from None
    return digest.hexdigest()[:16]


def _kept(folder: Path) -> bool:
    """Tell whether a set is whole: no link leads nowhere, no image that was missing has come, and none was unclear."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        unclear = "image_ambiguous" in summary["left_out"]
        if unclear or any(os.path.exists(image) for image in summary["missing"]):
            return False
        linked = [entry for place in os.scandir(folder / "images") for entry in os.scandir(place.path)]
        return len(linked) == summary["images"] and all(entry.is_file() for entry in linked)
    except (OSError, ValueError, KeyError, TypeError):
        return False
