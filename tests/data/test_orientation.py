"""Images on their side: their size is the one that training's decoder gives, whatever the format."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from ultralytics.utils.patches import imread

from tests.data.sets import annotation, coco_values, kinds
from yolo_gradsafe.data import prepare, run_check
from yolo_gradsafe.data.read.header import read_header


def turned(format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize(("format", "ending"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")])
def test_the_size_is_the_decoders(tmp_path: Path, format: str, ending: str, orientation: int) -> None:
    data = turned(format, orientation)
    (tmp_path / f"x.{ending}").write_bytes(data)
    size = read_header(data).size
    assert size == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[1::-1]
    assert size == imread(tmp_path / f"x.{ending}").shape[1::-1]


@pytest.mark.parametrize(("format", "ending"), [("JPEG", "jpg"), ("TIFF", "tif")])
def test_annotations_of_a_turned_image(tmp_path: Path, format: str, ending: str) -> None:
    data = turned(format, 6)
    width, height = read_header(data).size
    assert (width, height) == (48, 64)
    (tmp_path / f"x.{ending}").write_bytes(data)
    for stated, expected in (((width, height), {}), ((height, width), {"image_size": 1})):
        images = [{"id": 1, "file_name": f"x.{ending}", "width": stated[0], "height": stated[1]}]
        path = tmp_path / f"{stated[0]}.json"
        path.write_text(json.dumps(coco_values(images=images) | {"annotations": [annotation(1)]}))
        assert {kind: n for kind, n in kinds(run_check(path)).items() if kind == "image_size"} == expected
    made = prepare(tmp_path / "48.json", "detect", cache=tmp_path / "cache")
    assert (made.data.parent / "labels" / "train" / "x.txt").read_text() == "0 0.416667 0.25 0.5 0.25\n"
