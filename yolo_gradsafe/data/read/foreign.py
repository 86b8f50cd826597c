"""What data are that are neither YOLO nor COCO: the format's name, and a way to convert it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_gradsafe.data.read.files import read_bytes

__all__ = ["looks_like_coco", "name_file", "name_folder", "name_json"]

SNIFFED = 2**16
"""Bytes of a JSON by which it is told, first and last."""
TRIED = 8
"""Files of a folder that are looked at."""
EXPORT = "export it as COCO, or as YOLO, in the tool that wrote it"


@dataclass(frozen=True)
class Format:
    """One format of annotations."""

    name: str
    way: str
    """How to get COCO or YOLO from it, a phrase in the imperative."""
    fits: Callable[[Any], bool]
    """Tells whether the content of a JSON is of it."""


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, dict) and all(key in values for key in keys)


def _first(*keys: str) -> Callable[[Any], bool]:
    """Tell a list by the keys of its first entry."""
    return lambda values: isinstance(values, list) and bool(values) and _has(*keys)(values[0])


def _regions(values: Any) -> bool:
    if not isinstance(values, dict):
        return False
    inner = values.get("_via_img_metadata", values)
    entries = list(inner.values())[:1] if isinstance(inner, dict) else inner[:1] if isinstance(inner, list) else []
    return "_via_img_metadata" in values or any(_has("filename", "regions")(entry) for entry in entries)


def _panoptic(values: Any) -> bool:
    return _has("annotations")(values) and _first("segments_info")(values["annotations"])


def _captions(values: Any) -> bool:
    return _has("annotations")(values) and _first("caption")(values["annotations"])


def _createml(values: Any) -> bool:
    return _first("image", "annotations")(values) or _first("imagefilename", "annotation")(values)


JSONS = (
    Format("labelme", "convert the folder with 'labelme2coco FOLDER' (pip install labelme2coco)", _has("shapes")),
    Format("VIA (VGG Image Annotator)", "export COCO in VIA: Annotation > Export Annotations (COCO format)", _regions),
    Format("COCO panoptic", "take instances_*.json of the same set", _panoptic),
    Format("COCO captions", "take instances_*.json or person_keypoints_*.json of the same set", _captions),
    Format(
        "COCO detection results (predictions, no annotations)",
        "take the annotations that they were made for",
        _first("image_id", "score"),
    ),
    Format("CreateML", EXPORT, _createml),
    Format("Label Studio's own JSON", "export COCO or YOLO with images in Label Studio: Export", _first("data", "id")),
    Format("Label Studio's JSON-MIN", "export COCO or YOLO with images in Label Studio: Export", _first("annotator")),
    Format("BDD100K / Scalabel", "convert it with 'python -m scalabel.label.to_coco'", _first("name", "labels")),
    Format("Labelbox", "convert it with Labelbox's export to COCO", _first("data_row")),
    Format("Supervisely", "run Supervisely's app 'Export to COCO' or 'Export to YOLO'", _has("objects", "size")),
    Format("Datumaro", "convert it with 'datum convert -f coco' (pip install datumaro)", _has("items", "categories")),
    Format("FiftyOne's own samples.json", "export it with dataset_type=fo.types.COCODetectionDataset", _has("samples")),
    Format("OpenPose output", "it holds predictions of one picture; annotate keypoints as COCO", _has("people")),
)


def name_json(values: Any) -> str:
    """Return what the content of a JSON is and how to convert it; empty where it may be COCO."""
    if isinstance(values, dict) and ("images" in values or ("annotations" in values and "categories" in values)):
        formats = [one for one in JSONS if one.name.startswith("COCO")]
    else:
        formats = list(JSONS)
    return next((f"this is {one.name}, not COCO: {one.way}" for one in formats if one.fits(values)), "")


def name_file(path: Path) -> str:
    """Return what a file is that is neither a YAML nor a JSON; empty where that is not known."""
    try:
        head = read_bytes(str(path), SNIFFED).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""
    ending = path.suffix.lower()
    if ending == ".xml":
        cvat = "<annotations>" in head and "<image " in head
        where = "in CVAT export the task as 'COCO 1.0' or 'Ultralytics YOLO Detection 1.0'"
        voc = f"the folder is Pascal VOC: {EXPORT}, or use 'datum convert -if voc -f coco' (pip install datumaro)"
        return f"this is CVAT for images: {where}" if cvat else voc if "<annotation" in head else ""
    if ending == ".csv":
        return f"a table is not read: {EXPORT}"
    if ending in {".zip", ".tar", ".gz", ".7z", ".rar"}:
        return "this is an archive: unpack it, and name its folder"
    if ending in {".tfrecord", ".record"}:
        return f"this is TFRecord: {EXPORT}"
    return ""


def name_folder(folder: Path) -> str:
    """Return what a folder of annotations is and how to convert it; empty where that is not known."""
    for path in _samples(folder):
        where = f" (such as {path.relative_to(folder)})"
        if path.suffix.lower() != ".json":
            if told := name_file(path):
                return told + where
            continue
        try:
            told = name_json(json.loads(read_bytes(str(path)).decode("utf-8-sig")))
        except (OSError, ValueError, RecursionError):
            continue
        if told:
            return told + where
    return ""


def looks_like_coco(path: Path) -> bool:
    """Tell by its first bytes whether a JSON is COCO."""
    try:
        head = read_bytes(str(path), SNIFFED).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return False
    words = ('"images"', '"annotations"', '"categories"', '"image_id"', '"file_name"')
    return head.lstrip().startswith("{") and sum(word in head for word in words) >= 2 and '"shapes"' not in head


def _samples(folder: Path) -> Iterator[Path]:
    """Yield a few files of a folder, and of those in it, that may hold annotations."""
    endings = {".json", ".xml", ".csv", ".tfrecord", ".record"}
    try:
        places = [folder, *(path for path in sorted(folder.iterdir()) if os.path.isdir(path))]
    except OSError:
        return
    for place in places[: 4 * TRIED]:
        try:
            names = sorted(name for name in os.listdir(place) if os.path.splitext(name)[1].lower() in endings)
        except OSError:
            continue
        yield from (place / name for name in names[:TRIED])
