"""The layouts of the usual tools, read by pycocotools and converted: the same boxes, keypoints and classes to 5e-7."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from tests.data.sets import picture
from yolo_gradsafe.data import prepare

EXACT = 5.001e-7
"""Half of the sixth digit, and what sums of floats add."""
NAMES = ["nose", "left_eye", "right_eye"]


@dataclass(frozen=True)
class Layout:
    """Where a tool puts things, and what it writes."""

    json: str
    images: str
    file_name: str
    first_id: int = 1
    """Of images and categories."""
    entry: dict[str, Any] = field(default_factory=dict)
    """What it adds to an annotation."""
    image: dict[str, Any] = field(default_factory=dict)
    """What it adds to an image."""


LAYOUTS = {
    "COCO": Layout("annotations/instances_train2017.json", "train2017", "{k:012}.jpg"),
    "CVAT": Layout(
        "annotations/instances_default.json",
        "images/default",
        "sub/frame_{k:06}.png",
        entry={"segmentation": [], "attributes": {"occluded": False, "rotation": 0.0}},
        image={"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0},
    ),
    "Label Studio": Layout("result.json", "images", "images\\7/a1b2c3d4-{k}.jpg", 0, {"segmentation": [], "ignore": 0}),
    "Roboflow": Layout("train/_annotations.coco.json", "train", "{k}_jpg.rf.0123456789abcdef.jpg", 0),
    "FiftyOne": Layout("labels.json", "data", "{k}.jpg", 0, {"supercategory": None}),
    "MMPose": Layout("annotations/person_keypoints_train.json", "train", "{k}.jpg", entry={"segmentation": []}),
    "COCO Annotator": Layout(
        "set-1.json", "", "{k}.jpg", entry={"isbbox": True, "color": "#ff0000"}, image={"path": "/datasets/set/{k}.jpg"}
    ),
    "VIA": Layout("via_export_coco.json", "images", "{k}.jpg"),
    "Detectron2": Layout("coco/train.json", "coco/images/train", "train/{k}.jpg", entry={"bbox_mode": 1}),
}


def write(root: Path, layout: Layout, random: np.random.Generator) -> Path:
    """Write a set of random boxes and keypoints inside their images."""
    images, entries = [], []
    for k in range(layout.first_id, layout.first_id + 5):
        width, height = (int(side) for side in random.integers(40, 90, 2))
        name = layout.file_name.format(k=k)
        file = name.replace("\\", "/").rpartition("/")[2]
        folder = name.split("/")[0] if name.startswith("sub/") else ""
        picture(root / layout.images / folder / file, seed=k, size=(width, height))
        added = {key: str(value).format(k=k) for key, value in layout.image.items()}
        images.append({"id": k, "file_name": name, "width": width, "height": height, **added})
        for _ in range(int(random.integers(0, 6))):
            x, y = random.uniform(0, 0.7, 2) * (width, height)
            w, h = random.uniform(0.05, 0.3, 2) * (width, height)
            points = np.column_stack([x + w * random.uniform(0, 1, 3), y + h * random.uniform(0, 1, 3)])
            flags = random.integers(0, 3, 3)
            flags[0] = 2
            points *= (flags > 0)[:, None]
            entry = {"id": len(entries) + 1, "image_id": k, "category_id": layout.first_id + int(random.integers(0, 3))}
            keypoints = [
                v for (px, py), flag in zip(points.tolist(), flags.tolist(), strict=True) for v in (px, py, flag)
            ]
            box = [round(float(value), int(random.integers(1, 9))) for value in (x, y, w, h)]
            entries.append({**entry, "bbox": box, "area": w * h, "iscrowd": 0, "keypoints": keypoints, **layout.entry})
    categories = [{"id": layout.first_id + k, "name": f"kind {k}", "keypoints": NAMES} for k in range(3)]
    path = root / layout.json
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))
    return path


def expected(path: Path, task: str) -> Iterator[tuple[str, list[float]]]:
    """Yield file and label row of each annotation, as pycocotools reads the JSON."""
    coco = COCO(str(path))
    classes = {name: k for k, name in enumerate(sorted(coco.getCatIds()))}
    for entry in coco.loadAnns(coco.getAnnIds()):
        image = coco.loadImgs(entry["image_id"])[0]
        side = np.array([image["width"], image["height"]])
        box = np.array(entry["bbox"]).reshape(2, 2)
        row = [classes[entry["category_id"]], *((box[0] + box[1] / 2) / side), *(box[1] / side)]
        if task == "pose":
            row += (np.array(entry["keypoints"]).reshape(-1, 3) / [*side, 1]).ravel().tolist()
        yield image["file_name"].replace("\\", "/").rpartition("/")[2], list(map(float, row))


@pytest.mark.parametrize("task", ["detect", "pose"])
@pytest.mark.parametrize("tool", LAYOUTS)
def test_the_labels_are_those_of_pycocotools(tmp_path: Path, tool: str, task: str) -> None:
    path = write(tmp_path / "set", LAYOUTS[tool], np.random.default_rng(len(tool)))
    made = prepare(path, task, cache=tmp_path / "cache")
    folder = made.data.parent
    found = [
        (image.resolve().name, list(map(float, line.split())))
        for image in (folder / "images" / "train").iterdir()
        for line in (folder / "labels" / "train" / f"{image.stem}.txt").read_text().splitlines()
    ]
    told = sorted(expected(path, task))
    assert [name for name, _ in sorted(found)] == [name for name, _ in told]
    assert np.abs(np.array([row for _, row in sorted(found)]) - np.array([row for _, row in told])).max() <= EXACT
    assert len(told) > 5
    assert f"{len(told)} annotations: {len(told)} labels, 0 left out" in made.notes[0]
    assert yaml.safe_load(made.data.read_text())["names"] == {k: f"kind {k}" for k in range(3)}
