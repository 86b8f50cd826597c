"""Every task of Ultralytics: attach, train, survive a NaN batch in the first epoch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.arm import DETECT, Arm
from yolo_gradsafe.data.shapes import draw_detect

SERIES = DETECT.removesuffix(".yaml")
SLOW = pytest.mark.slow


def polygons(folder: Path) -> Path:
    """Draw a set whose objects are outlined by the four corners of their boxes: what segment and OBB read."""
    data = draw_detect(folder, train=8, val=4, size=64)
    for label in folder.glob("labels/*/*.txt"):
        rows = []
        for row in label.read_text().splitlines():
            number, x, y, w, h = row.split()
            left, top = float(x) - float(w) / 2, float(y) - float(h) / 2
            right, low = left + float(w), top + float(h)
            rows.append(
                f"{number} {left:.6f} {top:.6f} {right:.6f} {top:.6f} {right:.6f} {low:.6f} {left:.6f} {low:.6f}"
            )
        label.write_text("\n".join(rows) + "\n")
    return data


def classes(folder: Path) -> Path:
    """Draw a set with a folder a class: an image belongs to the class of its first object."""
    draw_detect(folder / "drawn", train=12, val=6, size=64)
    for image in folder.glob("drawn/images/*/*.jpg"):
        split = image.parent.name
        number = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt").read_text().split()[0]
        place = folder / "sorted" / split / f"class{number}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place)
    return folder / "sorted"


def boxes(folder: Path) -> Path:
    """Draw a detection set."""
    return draw_detect(folder, train=8, val=4, size=64)


# YOLO-World asks CLIP for the embeddings of the class names, and CLIP's weights come from the net.
WITHOUT_CLIP = """
from ultralytics.nn.tasks import WorldModel
def get_text_pe(self, text, batch=80, *_, **__):
    named = [torch.Generator().manual_seed(sum(map(ord, name))) for name in text]
    return torch.nn.functional.normalize(torch.stack([torch.randn(512, generator=g) for g in named]), dim=-1)[None]
WorldModel.get_text_pe = get_text_pe
"""
DRAWN = {
    "classify": (f"{SERIES}-cls.yaml", classes, {}, ""),
    "segment": (f"{SERIES}-seg.yaml", polygons, {}, ""),
    "obb": (f"{SERIES}-obb.yaml", polygons, {}, ""),
    "rtdetr": ("rtdetr-resnet50.yaml", boxes, {"imgsz": 160, "batch": 2, "nbs": 2, "fraction": 0.5}, ""),
    "world": ("yolov8n-worldv2.yaml", boxes, {}, WITHOUT_CLIP),
}
FIRST = {"classify": "head", "segment": "head.mask", "obb": "head.angle", "rtdetr": "head", "world": "head.class"}
"""A stage that only this head has, or the head."""


@pytest.mark.parametrize("task", [pytest.param(task, marks=() if task in {"classify"} else SLOW) for task in DRAWN])
def test_a_nan_batch_costs_its_step_and_nothing_else(train, tmp_path, task):
    model, draw, args, code = DRAWN[task]
    data = draw(tmp_path / "data")
    args = {"epochs": 2, "optimizer": "AdamW", "lr0": 0.001, **args}
    result = train(Arm(str(data), model, args, guard={}, nan_pixel=[(1, 2)], code=code))
    assert result.error == "", result.log[-2000:]
    assert result.fired == [[1, 2]]
    assert result.not_finite == {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}
    assert result.events["on_train_epoch_start"] == len(result.results) == 2
    assert "nan" not in json.dumps(result.losses())
    [incident] = result.incidents()
    assert (incident["kind"], incident["epoch"], incident["batch"]) == ("bad_batch", 1, 2)
    # Batches of classification name no files, and its loader makes the floats that the fault is written into.
    assert incident["cause"] == ("image" if task == "classify" else "preprocessing")
    assert "holds 1 NaN or Inf pixel" in incident["culprit"]
    assert [row["verdict"] for row in result.steps].count("bad_batch") == 1
    norms = {name.removeprefix("norm/"): value for name, value in result.steps[0].items() if name.startswith("norm/")}
    assert float(norms["backbone"]) > 0
    assert [name for name in norms if name.startswith(FIRST[task])], list(norms)
    assert "internal error" not in result.log
