"""Promise 1: a healthy run with the default options is stock Ultralytics, bit for bit."""

from __future__ import annotations

from itertools import product

import pytest

from tests.arm import DETECT, POSE, Arm, needs_musgd

MODELS = {"detect": DETECT, "pose": POSE}


def assert_same(guarded, stock) -> None:
    assert guarded.error == stock.error == ""
    assert guarded.digests == stock.digests
    assert guarded.losses() == stock.losses()


QUICK = {
    ("detect", "SGD", 8), ("detect", "AdamW", 4), ("detect", "auto", 8),
    ("pose", "SGD", 4), ("pose", "AdamW", 8), ("pose", "auto", 4),
}  # fmt: skip
"""Half of the cases, in which each value of each setting comes with each of another."""


@pytest.mark.parametrize(
    ("task", "optimizer", "nbs"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in product(("detect", "pose"), ("SGD", "AdamW", "auto"), (4, 8))
    ],
    ids=lambda value: {4: "every-batch", 8: "accumulated"}.get(value, value),
)
def test_healthy_run_equals_stock(train, drawn, task, optimizer, nbs):
    args = {"optimizer": optimizer, "nbs": nbs, "lr0": 0.001}
    stock = train(Arm(str(drawn[task]), MODELS[task], args), "stock")
    guarded = train(Arm(str(drawn[task]), MODELS[task], args, guard={}), "guarded")
    assert_same(guarded, stock)
    assert guarded.steps
    # yolo11n, of the versions before 8.4.0, finds no target in some batches: its loss swings twentyfold.
    assert {row["verdict"] for row in guarded.steps} <= {"ok", "clipped", *({"spike"} if "11" in DETECT else ())}
    assert not guarded.incidents()


@needs_musgd
@pytest.mark.parametrize(
    ("args", "steps"),
    [({"epochs": 2, "fraction": 0.5, "warmup_epochs": 0}, 2), pytest.param({}, 6, marks=pytest.mark.slow)],
    ids=["two-steps", "all"],
)
def test_musgd_equals_stock(train, drawn, args, steps):
    args = {"optimizer": "MuSGD", **args}  # a step takes seconds where the processor has no bfloat16
    guarded = train(Arm(str(drawn["detect"]), args=args, guard={}), "guarded")
    assert_same(guarded, train(Arm(str(drawn["detect"]), args=args), "stock"))
    assert [float(row["lr"]) > 0 for row in guarded.steps[-2:]] == [True, True], "the weights are moved"
    assert len(guarded.steps) == steps


def test_a_threshold_that_is_not_reached_equals_stock_unclipped(train, drawn):
    raise_limit = "import torch.nn.utils as u; f = u.clip_grad_norm_; u.clip_grad_norm_ = lambda p, max_norm: f(p, 1e9)"
    arm = {"data": str(drawn["detect"]), "args": {"lr0": 0.001}}  # unclipped, a higher one makes its validation absurd
    stock = train(Arm(**arm, code=raise_limit), "stock")
    for name, clip in {"high": {"max_norm": 1e9}, "none": {"mode": "none"}}.items():
        guarded = train(Arm(**arm, guard={"clip": clip}), name)
        assert_same(guarded, stock)
        assert {row["verdict"] for row in guarded.steps} == {"ok"}


@pytest.mark.parametrize("precision", [None, "float16", "bfloat16"])
def test_scaler_with_routine_overflows_equals_stock(train, drawn, precision):
    # So large a scale overflows fp32: the scaler halves it until it fits, as fp16 does from 65536 down.
    scale = 2.0**127 if precision != "float16" else 2.0**20
    arm = {"data": str(drawn["detect"]), "scaler": scale, "autocast": precision}
    stock, guarded = train(Arm(**arm), "stock"), train(Arm(**arm, guard={}), "guarded")
    assert_same(guarded, stock)
    verdicts = [row["verdict"] for row in guarded.steps]
    assert "amp_overflow" in verdicts, "the fault did not fire"
    assert not guarded.incidents()
    assert "WARNING ⚠️ \x1b[34m\x1b[1mGradSafe" not in guarded.log
