"""Which COCO JSONs a data set is made of: a JSON with its sibling, a YAML that names some, an export's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_gradsafe.data.findings import CheckError, Found
from yolo_gradsafe.data.read.annotations import Asked
from yolo_gradsafe.data.read.box_format import FORMATS
from yolo_gradsafe.data.read.coco import CocoPart, CocoPlan
from yolo_gradsafe.data.read.find_images import SPLITS, folders, split_of
from yolo_gradsafe.data.read.foreign import looks_like_coco

__all__ = ["names_coco", "plan_of_folder", "plan_of_json", "plan_of_yaml"]

OTHER = ("captions", "panoptic", "stuff", "image_info", "densepose", "createml", "results")
"""Words in the names of JSONs that have no boxes of objects."""
KEYS = {"path", "train", "val", "test", "images", "split", "boxes", "keep_crowds", "names", "flip_idx"}
IGNORED = {"nc", "kpt_shape", "download", "roboflow", "yaml_file"}
"""Keys of Ultralytics' data YAML that follow from the JSONs."""


def plan_of_json(path: Path, images: Path | None = None) -> CocoPlan:
    """Return a set of a training JSON and, where there is one, the validation JSON that lies beside it."""
    siblings = _siblings(path)[:1]
    return CocoPlan([CocoPart("train", path, images), *(CocoPart("val", sibling) for sibling in siblings)])


def plan_of_folder(folder: Path, task: str | None, images: Path | None = None) -> CocoPlan | None:
    """Return the set of an export: a folder a split, or JSONs in the folder or in its ``annotations``; None without.

    Raises:
        CheckError: There are several JSONs, and nothing tells which is meant.
    """
    by_split = {
        split: files
        for split, words in SPLITS.items()
        for place in folders(folder)
        if place.name.casefold() in words and (files := _jsons(place, task))
    }
    if "train" in by_split and not _jsons(folder, task):
        return CocoPlan([CocoPart(split, _one(files, folder), images) for split, files in by_split.items()])
    for place in (folder, folder / "annotations", folder / "Annotations", folder / "labels"):
        files = _jsons(place, task)
        if not files:
            continue
        named: dict[str, list[Path]] = {}
        for path in files:
            named.setdefault(split_of(path.stem) or "", []).append(path)
        if set(named) == {""} or len(files) == 1:
            return plan_of_json(_one(files, folder), images)
        named.pop("", None)
        parts = [CocoPart(split, _one(named[split], folder), images) for split in SPLITS if split in named]
        return CocoPlan(parts)
    return None


def names_coco(values: Mapping[str, Any]) -> bool:
    """Tell whether a YAML's splits name JSONs."""
    return any(_names_json(values.get(word)) for words in SPLITS.values() for word in words)


def plan_of_yaml(values: Mapping[str, Any], file: Path) -> CocoPlan:
    """Return the set of a YAML: ``train: a.json``, ``train: [a.json, b.json]`` or mappings of annotations and images.

    Paths are relative to ``path``, and that to the YAML. ``images`` beside the splits is the folder of all images.
    What is not understood is a finding, an error.
    """
    root = file.parent / str(values.get("path") or "")
    found: list[Found] = []

    def wrong(message: str) -> None:
        found.append(Found("yaml_key", message, str(file)))

    parts: list[CocoPart] = []
    keys = {split: [key for key in words if values.get(key) is not None] for split, words in SPLITS.items()}
    for split, given in keys.items():
        if len(given) > 1:
            wrong(f"'{given[0]}' and '{given[1]}' name the same split")
        for key in given[:1]:
            parts += _parts(split, key, values[key], values.get("images"), root, wrong)
    if not any(part.split == "train" for part in parts):
        wrong("'train' names no COCO JSON")
    for key in sorted(set(map(str, values)) - KEYS - IGNORED - {word for words in SPLITS.values() for word in words}):
        wrong(f"'{key}' is not understood beside COCO JSONs; keys are {', '.join(sorted(KEYS))}")
    share = values.get("split")
    if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float))):
        wrong(f"split is {share!r}, expected a share such as 0.1")
        share = None
    boxes, keep = values.get("boxes"), values.get("keep_crowds", False)
    if boxes is not None and boxes not in FORMATS:
        wrong(f"boxes is {boxes!r}, expected one of {', '.join(FORMATS)}")
        boxes = None
    if not isinstance(keep, bool):
        wrong(f"keep_crowds is {keep!r}, expected true or false")
        keep = False
    names = _names(values.get("names"), wrong)
    flip = values.get("flip_idx")
    if flip is not None and not (isinstance(flip, list) and all(type(k) is int for k in flip)):
        wrong(f"flip_idx is {flip!r}, expected a list of numbers")
        flip = None
    return CocoPlan(parts, None if share is None else float(share), Asked(boxes, keep), names, flip, found)


def _parts(split: str, key: str, given: Any, common: Any, root: Path, wrong: Any) -> list[CocoPart]:
    parts = []
    if given == []:
        wrong(f"'{key}' is an empty list")
    for one in given if isinstance(given, list) else [given]:
        json, images = one, common
        if isinstance(one, Mapping):
            json, images = one.get("annotations"), one.get("images", common)
            for word in sorted(set(map(str, one)) - {"annotations", "images"}):
                wrong(f"'{key}' holds '{word}', expected annotations and images")
        if isinstance(images, Mapping):
            images = images.get(key)
        if not isinstance(json, str) or not json.lower().endswith(".json"):
            wrong(f"'{key}' holds {str(one)!r:.80}, expected the name of a COCO JSON, as its other splits")
        elif images is not None and not isinstance(images, str):
            wrong(f"'images' of '{key}' is {str(images)!r:.80}, expected a folder")
        else:
            parts.append(CocoPart(split, root / json, root / images if images is not None else None))
    return parts


def _names(given: Any, wrong: Any) -> list[str] | None:
    """Return names in their order, None where there are none."""
    if given is None:
        return None
    if isinstance(given, Mapping) and sorted(given, key=str) == sorted(range(len(given)), key=str):
        given = [given[k] for k in range(len(given))]
    if isinstance(given, list) and len(set(map(str, given))) == len(given):
        return [str(name) for name in given]
    wrong(f"names is {str(given)!r:.80}, expected a list of different names")
    return None


def _names_json(given: Any) -> bool:
    if isinstance(given, list):
        return any(map(_names_json, given))
    if isinstance(given, Mapping):
        return "annotations" in given or any(isinstance(one, str) and one.endswith(".json") for one in given.values())
    return isinstance(given, str) and given.lower().endswith(".json")


def _siblings(path: Path) -> list[Path]:
    """Return the validation JSONs that lie beside a training one."""
    places = []
    for word in SPLITS["val"]:
        places.append(path.with_name(re.sub("train(ing)?", word, path.name, count=1, flags=re.IGNORECASE)))
        if path.parent.name.casefold() in SPLITS["train"]:
            other = path.parent.with_name(word)
            places += [other / path.name, other / places[-1].name]
    return [place for place in dict.fromkeys(places) if place != path and os.path.isfile(place)]


def _jsons(folder: Path, task: str | None) -> list[Path]:
    """Return the COCO JSONs of a folder that are for the task."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json" and path.is_file())
    except OSError:
        return []
    paths = [path for path in paths if path.name[0] != "." and looks_like_coco(path)]
    paths = [path for path in paths if not any(word in path.name for word in OTHER)] or paths
    keypoints = [path for path in paths if "keypoints" in path.name]
    wanted = keypoints if task == "pose" else [path for path in paths if path not in keypoints]
    return wanted or paths


def _one(files: Sequence[Path], folder: Path) -> Path:
    if len(files) == 1:
        return files[0]
    names = ", ".join(str(path.relative_to(folder)) for path in files[:5])
    raise CheckError(f"{folder} holds {len(files)} files that may describe the data ({names}): name one of them")
