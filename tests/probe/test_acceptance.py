"""Settings that break training are replaced by ones that train; what is said to break, breaks."""

from __future__ import annotations

import pytest

from tests.arm import Arm
from yolo_gradsafe.data.shapes import draw_detect
from yolo_gradsafe.probe import probe

ARGS = {"imgsz": 128, "batch": 4, "nbs": 4}


def final(arm) -> float:
    """mAP50 at the end."""
    return 0.0 if arm.error else float(arm.results[-1]["metrics/mAP50(B)"])


@pytest.mark.slow
def test_following_the_probe_is_better_than_a_rate_that_breaks(train, tmp_path):
    data = str(draw_detect(tmp_path / "data", train=64, val=16))
    args = {**ARGS, "epochs": 6, "optimizer": "AdamW"}
    found = probe("yolov8n.yaml", data, lr0=0.3, trial_steps=24, **args)
    assert found.lr_range.lr_diverges is not None
    assert found.lr_range.lr_diverges < 0.1
    assert found.advice.lr0 < found.lr_range.lr_diverges
    stock = train(Arm(data, "yolov8n.yaml", {**args, "lr0": 0.3}), "stock")
    advised = {"clip": {"max_norm": found.advice.max_norm}}
    followed = train(Arm(data, "yolov8n.yaml", {**args, "lr0": found.advice.lr0}, advised), "followed")
    assert followed.error == ""
    assert followed.not_finite == {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}
    assert final(followed) > final(stock)
