"""The suggested learning rate trains; ten times the one that is said to break, breaks."""

from __future__ import annotations

import pytest

from tests.arm import Arm
from yolo_gradsafe.data.shapes import draw_detect, draw_pose
from yolo_gradsafe.probe import probe

ARGS = {"imgsz": 128, "batch": 4, "nbs": 4}
TRAIN = {**ARGS, "epochs": 4, "warmup_epochs": 0}


def loss(row: dict[str, str]) -> float:
    return sum(float(value) for name, value in row.items() if name.startswith("train/"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "optimizer", "breaks"),
    [("yolo26n-pose.yaml", "AdamW", True), ("yolo26n.yaml", "AdamW", False), ("yolov8n.yaml", "SGD", False)],
)
def test_the_advice_trains(train, tmp_path, model, optimizer, breaks):
    draw = draw_pose if "pose" in model else draw_detect
    data = str(draw(tmp_path / "data", train=64, val=16))
    found = probe(model, data, optimizer=optimizer, **ARGS)
    assert found.norms.held
    args = {**TRAIN, "optimizer": optimizer, "lr0": found.advice.lr0}
    advised = {"clip": {"max_norm": found.advice.max_norm}}
    for name, guard in (("stock", None), ("advised", advised)):
        good = train(Arm(data, model, args, guard), name)
        assert good.error == ""
        assert "nan" not in str(good.losses())
        assert good.not_finite == {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}
        assert loss(good.results[-1]) < 0.9 * loss(good.results[0]), name
    if breaks:  # the planted case; stock's clip at 10 keeps the others alive at any rate up to 1
        assert found.lr_range.lr_diverges is not None
        assert found.advice.lr0 <= found.lr_range.lr_diverges / 10
        bad = train(Arm(data, model, {**args, "lr0": min(1.0, 10 * found.lr_range.lr_diverges)}), "bad")
        assert bad.error or "nan" in str(bad.losses())
