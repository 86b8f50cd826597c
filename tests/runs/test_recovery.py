"""Promise 2, up the ladder: isolate, heal, roll back, lower the learning rate, raise the precision."""

from __future__ import annotations

import json
from itertools import cycle

import pytest
import torch
import ultralytics

from tests.arm import DETECT, POSE, Arm, Result, needs_musgd
from yolo_gradsafe.data.shapes import draw_detect, draw_pose

MASKS = tuple(map(int, ultralytics.__version__.split(".")[:3])) >= (8, 4, 84)
"""Whether Ultralytics saves the largest fp16 number for one that is beyond it."""
TAKEN = {"ok", "clipped", "spike"}
FINITE = {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}


def assert_sound(result: Result, epochs: int = 3, saved: bool = True, unseen: range = range(0)) -> None:
    """What holds at the end of every run, whatever was done to it.

    Args:
        result: The run.
        epochs: Epochs that it has.
        saved: Whether its checkpoints are good.
        unseen: Epochs without a good batch, whose training losses are not known.
    """
    assert result.error == ""
    assert result.not_finite == FINITE
    assert result.events["on_train_epoch_start"] == len(result.results) == epochs, "an epoch was redone"
    assert "nan" not in json.dumps([row for row in result.losses() if int(row["epoch"]) not in unseen])
    assert {row["train/box_loss"] for row in result.losses() if int(row["epoch"]) in unseen} <= {"nan"}
    assert result.unknown() == []
    for name in ("last", "best") if saved else ():
        saved = torch.load(result.run / "weights" / f"{name}.pt", weights_only=False)
        for model in (saved["ema"], saved["model"]):
            if model is not None:
                state = model.float().state_dict()
                assert all(t.isfinite().all() for t in state.values()), name
                assert all(t.any() for k, t in state.items() if k.endswith("running_var")), "zero-filled"


def kinds(result: Result) -> list[str]:
    return [incident["kind"] for incident in result.incidents()]


# Isolation ------------------------------------------------------------------------------------------------------------

# 8 images in batches of 1, a step every 4 of them: batches 2 and 3 are in the middle of a window.
WINDOWS = {"batch": 1, "nbs": 4, "warmup_epochs": 0}


@pytest.mark.parametrize(
    ("optimizer", "scaler"),
    [("SGD", None), ("AdamW", 1024.0), pytest.param("MuSGD", None, marks=[needs_musgd, pytest.mark.slow])],
)
def test_the_window_equals_the_one_without_the_bad_micro_batch(train, drawn, optimizer, scaler):
    args = {**WINDOWS, "optimizer": optimizer, "lr0": 0.001}
    place = (2, 3)
    oracle = train(Arm(str(drawn["detect"]), args=args, undo=[place], scaler=scaler), "oracle")
    guard = {"recovery": {"isolate": "always"}}
    guarded = train(Arm(str(drawn["detect"]), args=args, nan_pixel=[place], scaler=scaler, guard=guard), "guarded")
    assert_sound(guarded)
    assert guarded.fired == [list(place)]
    [incident] = guarded.incidents()
    assert (incident["kind"], incident["epoch"], incident["batch"]) == ("isolated", *place)
    assert "holds 1 NaN or Inf pixel" in incident["culprit"]
    assert {row["verdict"] for row in guarded.steps} <= TAKEN, "the window's step was taken"
    assert guarded.digests == oracle.digests


def test_the_first_bad_micro_batch_costs_its_window_and_arms_the_check(train, drawn):
    places = [(1, 3), (2, 2), (2, 4), (3, 1)]
    guarded = train(Arm(str(drawn["detect"]), args=WINDOWS, nan_pixel=places, guard={}))
    assert_sound(guarded)
    assert [tuple(place) for place in guarded.fired] == places
    assert kinds(guarded) == ["bad_batch", "isolated", "isolated", "isolated"]
    assert sum(row["clip_scale"] == "0" for row in guarded.steps) == 1


def test_a_window_of_which_nothing_good_is_left_is_skipped(train, drawn):
    places = [(2, n) for n in range(1, 9)]
    guarded = train(
        Arm(str(drawn["detect"]), args=WINDOWS, nan_pixel=places, guard={"recovery": {"isolate": "always"}})
    )
    assert_sound(guarded, unseen=range(2, 3))
    assert len(guarded.fired) == 8
    assert "bad_batch" in kinds(guarded)


# Healing --------------------------------------------------------------------------------------------------------------

POISONS = {
    "weight": "next(iter(trainer.model.parameters())).data[0, 0, 0, 0] = float('nan')",
    "all-weights": "[p.data.fill_(float('nan')) for p in trainer.model.parameters()]",
    "optimizer": "next(s for s in trainer.optimizer.state.values())['exp_avg'].view(-1)[0] = float('inf')",
    "second-moment": "next(s for s in trainer.optimizer.state.values())['exp_avg_sq'].fill_(float('nan'))",
    "ema": "next(iter(trainer.ema.ema.parameters())).data.view(-1)[0] = float('nan')",
    "ema-buffer": "next(b for b in trainer.ema.ema.buffers() if b.is_floating_point()).view(-1)[0] = float('inf')",
    "batch-norm": "trainer.model.model[0].bn.running_var[0] = float('inf')",
    "scale-zero": "trainer.scaler._scale.fill_(0.0)",
    "scale-inf": "trainer.scaler._scale.fill_(float('inf'))",
}
POISON = """
fired = []
def poison(trainer):
    if (trainer.epoch + 1, trainer.batch_number) == {place}:
        {statement}
        fired.append(1)
callbacks.setdefault("on_train_batch_end", []).append(poison)
callbacks.setdefault("on_train_end", []).append(lambda _: print("fired", len(fired)))
"""


@pytest.mark.parametrize(("what", "place"), zip(POISONS, cycle([(1, 1), (2, 2), (2, 1)]), strict=False))
def test_poison_is_healed_in_place(train, drawn, what, place):
    code = POISON.format(place=place, statement=POISONS[what])
    scaler = 1024.0 if what.startswith("scale") else None
    args = {"optimizer": "AdamW", "lr0": 0.001}
    result = train(Arm(str(drawn["detect"]), args=args, guard={}, code=code, scaler=scaler))
    assert "fired 1" in result.log
    assert_sound(result)
    assert set(kinds(result)) & {"healed", "bad_batch", "poisoned"}, "it was seen"
    assert "rollback" not in kinds(result)
    assert sum(row["clip_scale"] == "0" for row in result.steps) <= 1


def test_healed_weights_are_those_of_the_snapshot_and_nothing_else_changes(train, drawn):
    # One element becomes NaN after the last step of the run; the end of the epoch heals it before it is saved.
    code = POISON.format(place=(3, 2), statement=POISONS["weight"])
    clean = train(Arm(str(drawn["detect"]), guard={}), "clean")
    healed = train(Arm(str(drawn["detect"]), guard={}, code=code), "healed")
    assert_sound(healed)
    assert kinds(healed) == ["healed"]
    assert healed.digests["ema"] == clean.digests["ema"]
    assert healed.losses() == clean.losses()


# Rollback and learning rate -------------------------------------------------------------------------------------------

FLIP = "next(iter(trainer.model.parameters())).data[0, 0, 0, 0] = 1e30"
BREAK = "[p.data.mul_(300) for n, p in trainer.model.named_parameters() if 'bn.weight' in n]"


def test_a_flipped_bit_is_healed_in_place(train, drawn):
    code = POISON.format(place=(2, 2), statement=FLIP)
    result = train(Arm(str(drawn["detect"]), guard={}, code=code))
    assert_sound(result)
    assert kinds(result) == ["healed"]
    assert {row["verdict"] for row in result.steps} <= TAKEN


def test_weights_that_are_finite_but_broken_are_rolled_back(train, drawn):
    code = POISON.format(place=(2, 1), statement=BREAK)
    result = train(Arm(str(drawn["detect"]), args={"epochs": 5}, guard={}, code=code))
    assert_sound(result, epochs=5)
    [rollback] = [incident for incident in result.incidents() if incident["kind"] == "rollback"]
    assert rollback["action"].startswith("rolled back to the snapshot of step")
    assert "lr_backoff" not in kinds(result), "the learning rate is not to blame"


NATURAL = {
    "pose-AdamW": (POSE, {"optimizer": "AdamW", "lr0": 0.5}),
    "detect-MuSGD": (DETECT, {"optimizer": "MuSGD", "lr0": 1.0}),
    "v8-AdamW": ("yolov8n.yaml", {"optimizer": "AdamW", "lr0": 1.0, "warmup_epochs": 0}),
}


@pytest.mark.slow
@needs_musgd
@pytest.mark.parametrize("case", NATURAL)
def test_a_learning_rate_that_is_far_too_high_is_lowered_and_the_model_learns(train, tmp_path, case):
    model, args = NATURAL[case]
    draw = draw_pose if model == POSE else draw_detect
    data = draw(tmp_path / "data", train=64, val=16, size=128)
    args = {"epochs": 10, "imgsz": 128, "pretrained": False, **args}
    result = train(Arm(str(data), model, args, guard={}))
    assert_sound(result, epochs=10)
    lowered = [incident for incident in result.incidents() if incident["kind"] == "lr_backoff"]
    assert lowered[0]["cause"] == "learning_rate"
    assert lowered[0]["step"] < 12, "seen in the weights, before any loss tells"
    assert float(result.results[-1]["metrics/mAP50(B)"]) > 0.85
    factors = [float(row["lr_factor"]) for row in result.steps]
    assert factors[0] == 1.0
    assert min(factors) < 0.1


@pytest.mark.slow
def test_fine_tuning_at_a_rate_that_is_far_too_high_keeps_what_was_learned(train, tmp_path):
    data = draw_detect(tmp_path / "data", train=48, val=24, size=96, seed=11)
    args = {"imgsz": 96, "batch": 6, "nbs": 6, "optimizer": "AdamW", "warmup_epochs": 3}
    before = train(Arm(str(data), "yolov8n.yaml", {**args, "epochs": 12, "lr0": 0.003, "seed": 99}), "before")
    weights = str(before.run / "weights" / "last.pt")
    fine = {**args, "epochs": 6, "lr0": 0.1}
    stock = train(Arm(str(data), weights, fine), "stock")
    guarded = train(Arm(str(data), weights, fine, guard={}), "guarded")
    assert_sound(guarded, epochs=6)
    [diverging] = [incident for incident in guarded.incidents() if incident["kind"] == "diverging"]
    assert diverging["cause"] == "learning_rate"
    assert "rolled_back" in diverging["remedies"], "the weights before do better"
    learned, left, kept = (float(result.results[-1]["metrics/mAP50(B)"]) for result in (before, stock, guarded))
    assert left < 0.5 < 0.9 * learned <= kept


@pytest.mark.slow
def test_statistics_that_lag_behind_the_weights_follow_and_the_model_is_good(train, tmp_path):
    data = draw_detect(tmp_path / "data", train=48, val=24, size=96, seed=11)
    args = {"imgsz": 96, "batch": 6, "nbs": 6, "epochs": 12, "optimizer": "AdamW", "lr0": 0.01, "warmup_epochs": 3}
    stock = train(Arm(str(data), args=args), "stock")
    guarded = train(Arm(str(data), args=args, guard={}), "guarded")
    assert_sound(guarded, epochs=12)
    assert kinds(guarded) == ["batchnorm_lag"], "the rate is not to blame"
    [lag] = guarded.incidents()
    assert lag["remedies"] == ["batchnorm_momentum_raised"]
    before = [row for row in guarded.losses() if int(row["epoch"]) <= lag["epoch"]]
    assert before == [row for row in stock.losses() if int(row["epoch"]) <= lag["epoch"]], "seen, and nothing else done"
    left, kept = (float(result.results[-1]["metrics/mAP50(B)"]) for result in (stock, guarded))
    assert left < 0.9 < kept
    saved = torch.load(guarded.run / "weights" / "last.pt", weights_only=False)["model"]
    assert {m.momentum for m in saved.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.03}


# As callbacks do that wait for a plateau: every second epoch.
PLATEAU = """
def lower(trainer):
    if trainer.epoch % 2:
        for group in trainer.optimizer.param_groups:
            group["initial_lr"] *= 0.3
            group["lr"] *= 0.3
        trainer.scheduler.base_lrs = [rate * 0.3 for rate in trainer.scheduler.base_lrs]
callbacks.setdefault("on_fit_epoch_end", []).append(lower)
"""


@pytest.mark.slow
def test_a_rate_that_the_user_lowers_as_well_is_not_lowered_twice(train, tmp_path):
    data = draw_detect(tmp_path / "data", train=64, val=16, size=128)
    args = {"epochs": 12, "imgsz": 128, "pretrained": False, "optimizer": "AdamW", "lr0": 0.3, "warmup_epochs": 0}
    result = train(Arm(str(data), "yolov8n.yaml", args, guard={}, code=PLATEAU))
    assert_sound(result, epochs=12)
    factors = [float(row["lr_factor"]) for row in result.steps]
    assert min(factors) < 0.01
    assert factors[-1] == 1.0, "the user's rate is low enough by then"
    assert max(float(row["lr"]) for row in result.steps[2:]) < 0.1
    assert float(result.results[-1]["metrics/mAP50(B)"]) > 0.8


# Precision ------------------------------------------------------------------------------------------------------------

# Activations of the first layer overflow fp16 for good; batch norm makes bf16 and fp32 indifferent to their size.
LARGE = """
def enlarge(trainer):
    trainer.model.model[0].conv.weight.data.mul_(3e5)
    trainer.ema.ema.model[0].conv.weight.data.mul_(3e5)
callbacks.setdefault("on_train_start", []).append(enlarge)
"""


def test_a_model_that_overflows_fp16_goes_on_in_bf16(train, drawn):
    result = train(Arm(str(drawn["detect"]), guard={}, code=LARGE, autocast="float16", scaler=1024.0))
    assert_sound(
        result, saved=MASKS, unseen=range(1, 2)
    )  # the variances of such activations are beyond fp16, in which models are saved
    bad = [incident for incident in result.incidents() if incident["kind"] == "bad_batch"]
    assert [incident["cause"] for incident in bad] == ["precision"] * 2
    assert bad[0]["layer"] == "model.0.conv"
    [raised] = [incident for incident in result.incidents() if incident["kind"] == "precision"]
    assert raised["action"] == "training continues in bf16"
    assert [row["verdict"] in TAKEN for row in result.steps] == [False] * 2 + [True] * 4


@pytest.mark.slow
def test_two_hundred_nan_steps_under_a_scaler_then_health(train, tmp_path):
    data = draw_detect(tmp_path / "data", train=24, val=4, size=64)
    # 12 batches an epoch: 17 epochs of nothing but NaN, then 8 healthy ones.
    places = [(epoch, batch) for epoch in range(2, 19) for batch in range(1, 13)]
    args = {"epochs": 26, "batch": 2, "nbs": 2, "optimizer": "AdamW", "lr0": 0.001}
    result = train(Arm(str(data), args=args, nan_pixel=places, scaler=65536.0, guard={}))
    assert len(result.fired) == 204
    assert_sound(result, epochs=26, unseen=range(2, 19))
    assert kinds(result).count("bad_batch") == 204
    assert not {"rollback", "lr_backoff", "precision", "quarantine", "stop"} & set(kinds(result))
    assert float(result.steps[-1]["amp_scale"]) == 65536.0
    assert float(result.steps[-1]["loss"]) < float(result.steps[0]["loss"])
