"""Promise 1 over twenty healthy trainings: no remedy beyond clipping is used, and the run is stock's bit for bit."""

from __future__ import annotations

from itertools import product

import pytest

from tests.arm import DETECT, POSE, Arm, needs_musgd
from yolo_gradsafe.data.shapes import draw_detect, draw_pose

OPTIMIZERS = {"SGD": 0.01, "AdamW": 0.001, "MuSGD": 0.01}
SETTINGS = {
    "warm-up": {"epochs": 8, "warmup_epochs": 3},
    "close_mosaic": {"epochs": 8, "mosaic": 1.0, "close_mosaic": 3},
    "multi-scale": {"epochs": 6, "multi_scale": 0.5},
    "accumulation": {"epochs": 8, "nbs": 12},
}
CASES = list(product([DETECT, POSE], OPTIMIZERS, SETTINGS))[:20]


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("larger")
    return {
        DETECT: draw_detect(folder / "detect", train=24, val=4, size=64),
        POSE: draw_pose(folder / "pose", train=24, val=4, size=64),
    }


@pytest.mark.slow
@needs_musgd
@pytest.mark.parametrize(
    ("model", "optimizer", "setting", "seed"),
    [(*case, seed) for seed, case in enumerate(CASES)],
    ids=["-".join(case) for case in CASES],
)
def test_a_healthy_run_is_left_alone(train, larger, model, optimizer, setting, seed):
    args = {"optimizer": optimizer, "lr0": OPTIMIZERS[optimizer], "seed": seed, **SETTINGS[setting]}
    stock = train(Arm(str(larger[model]), model, args), "stock")
    # Snapshots are taken often, so that this would show what they do.
    guard = {"recovery": {"trust_steps": 2, "snapshot_share": 1.0}}
    guarded = train(Arm(str(larger[model]), model, args, guard=guard), "guarded")
    assert guarded.error == stock.error == ""
    assert guarded.incidents() == []
    assert {row["verdict"] for row in guarded.steps} <= {"ok", "clipped", "spike"}
    assert guarded.digests == stock.digests
    assert guarded.losses() == stock.losses()
