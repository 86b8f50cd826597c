"""A small YAML that names COCO JSONs: ``train: a.json``, or ``train: {annotations: a.json, images: folder}``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_gradsafe.data.read.coco import CocoPart

__all__ = ["coco_parts"]


def coco_parts(values: Mapping[str, Any], file: Path) -> list[CocoPart]:
    """Return the splits of a YAML whose splits are COCO JSONs; none where they are something else.

    Paths are relative to ``path``, and that to the YAML. ``images`` beside the splits is the folder of all images.
    """
    root = file.parent / str(values.get("path") or "")
    common = values.get("images")
    parts = []
    for split in ("train", "val", "test"):
        given = values.get(split)
        if isinstance(given, Mapping):
            json, images = given.get("annotations"), given.get("images", common)
        else:
            json, images = given, common
        if isinstance(json, str) and json.lower().endswith(".json"):
            parts.append(CocoPart(split, root / json, root / images if isinstance(images, str) else None))
    return parts
