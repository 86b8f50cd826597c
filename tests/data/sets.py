"""Small data sets on disk, right but for what a test makes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from yolo_gradsafe.data import Health

GOOD = "0 0.5 0.5 0.25 0.5\n"
POSE = "0 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 1\n"
"""A pose row of two keypoints."""
TWO_POINTS = {"kpt_shape": [2, 3], "flip_idx": [1, 0]}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Path:
    """Write an image of noise, width by height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, noise)[1].tobytes())
    return path


def yolo_set(folder: Path, labels: dict[str, str | bytes] | None = None, **keys: Any) -> Path:
    """Write a set of two classes: `labels` are training labels by name, beside two good ones; keys go into the YAML."""
    pose = "kpt_shape" in keys
    good = POSE if pose else GOOD + GOOD.replace("0 ", "1 ", 1)
    if pose:
        keys.setdefault("names", ["person"])
    for split, rows in {"train": {"a": good, "b": good, **(labels or {})}, "val": {"c": good}}.items():
        for k, (name, text) in enumerate(rows.items()):
            picture(folder / "images" / split / f"{name}.jpg", seed=k + 1000 * (split == "val"))
            label = folder / "labels" / split / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_bytes(text if isinstance(text, bytes) else text.encode())
    values = {"path": str(folder), "train": "images/train", "val": "images/val", "names": ["one", "two"], **keys}
    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}), encoding="utf-8")
    return data


def annotation(number: int, **values: Any) -> dict[str, Any]:
    """Return an annotation of a COCO JSON of `coco_set`."""
    return {"id": number, "image_id": 1, "category_id": 5, "bbox": [8, 8, 24, 16], "area": 384, "iscrowd": 0, **values}


def coco_values(annotations: list[Any] | None = None, **values: Any) -> dict[str, Any]:
    """Return the content of a COCO JSON of two images of 64 by 48 and two categories, 5 and 9."""
    return {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 64, "height": 48} for k in (1, 2)],
        "annotations": [annotation(1), annotation(2, image_id=2, category_id=9), *(annotations or [])],
        "categories": [{"id": 9, "name": "dog"}, {"id": 5, "name": "cat"}],
        **values,
    }


def coco_set(folder: Path, annotations: list[Any] | None = None, **values: Any) -> Path:
    """Write a COCO JSON and its images."""
    for k in (1, 2):
        picture(folder / "images" / f"{k}.jpg", seed=k)
    path = folder / "annotations.json"
    path.write_text(json.dumps(coco_values(annotations, **values)), encoding="utf-8")
    return path


def keypoint_categories() -> list[dict[str, Any]]:
    """Return categories with keypoints that have a left and a right."""
    return [{"id": 5, "name": "cat", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}]


def kinds(health: Health) -> dict[str, int]:
    """Return the findings by kind."""
    return {kind.kind: kind.count for kind in health.kinds}


def example(health: Health, kind: str) -> Any:
    """Return the first finding of a kind."""
    return next(one.examples[0] for one in health.kinds if one.kind == kind)
