"""Promise 2: a NaN batch costs its step and nothing else; the record names it."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.arm import BASE, DETECT, POSE, Arm, needs_musgd

# Four real images, two batches an epoch, three epochs.
COCO = {"batch": 2, "nbs": 2}
WHERE = {"first epoch": (1, 1), "later epoch": (2, 1), "last batch of an epoch": (2, 2)}
QUICK = {("detect", "first epoch", 1024.0), ("pose", "later epoch", None), ("detect", "last batch of an epoch", None)}
"""Of all combinations, those that every run of the tests has."""


def coco_arm(coco, task, **kwargs) -> Arm:
    name, model = {"detect": ("coco8", DETECT), "pose": ("coco8-pose", POSE)}[task]
    return Arm(str(coco_yaml(coco, name)), model, dict(COCO), **kwargs)


def coco_yaml(coco, name):
    return coco / name / f"{name}.yaml"


def assert_survived(result, place) -> None:
    """What holds after every handled NaN batch."""
    assert result.error == ""
    assert result.fired == [list(place)], "the fault did not fire exactly once"
    assert result.not_finite == {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}
    assert len(result.results) == BASE["epochs"]
    assert "nan" not in json.dumps(result.losses())
    assert result.unknown() == []
    assert result.events["on_train_epoch_start"] == BASE["epochs"], "an epoch was redone"
    assert "recovering from last.pt" not in result.log


@pytest.mark.parametrize(
    ("task", "where", "scaler"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in product(("detect", "pose"), WHERE, (None, 1024.0))
    ],
)
def test_nan_pixel_in_real_images(train, coco, task, where, scaler):
    place = WHERE[where]
    result = train(coco_arm(coco, task, guard={"report": {"console": True}}, nan_pixel=[place], scaler=scaler))
    assert_survived(result, place)
    [incident] = result.incidents()
    assert (incident["kind"], incident["epoch"], incident["batch"]) == ("bad_batch", *place)
    [culprit] = incident["images"]
    assert culprit.endswith(".jpg")
    assert incident["culprit"].startswith(f"{Path(culprit).name} holds 1 NaN or Inf pixel")
    assert (incident["cause"], incident["term"]) == ("preprocessing", "")
    assert (result.run / incident["picture"]).stat().st_size > 1000
    assert incident["loss"] == "nan"
    assert incident["tensors"][0] == "model.0.conv.weight"
    bad = [row for row in result.steps if row["verdict"] == "bad_batch"]
    assert [(int(row["epoch"]), int(row["batch"]), row["clip_scale"]) for row in bad] == [(*place, "0")]
    assert json.loads(bad[0]["images"]) == incident["images"]
    for name in (
        "stability.json",
        "stability/options.yaml",
        "stability/run.json",
        "weights/last.pt",
        "weights/best.pt",
    ):
        assert (result.run / name).is_file()


@pytest.mark.parametrize(
    ("optimizer", "scaler"),
    [
        pytest.param("SGD", None, id="SGD-no-scaler"),
        pytest.param("SGD", 1024.0, id="SGD-scaler", marks=pytest.mark.slow),
        pytest.param("AdamW", None, id="AdamW-no-scaler", marks=pytest.mark.slow),
        pytest.param("AdamW", 1024.0, id="AdamW-scaler"),
        pytest.param("MuSGD", None, id="MuSGD-no-scaler", marks=[needs_musgd, pytest.mark.slow]),
        pytest.param("MuSGD", 1024.0, id="MuSGD-scaler", marks=[needs_musgd, pytest.mark.slow]),
    ],
)
def test_the_run_equals_the_run_without_that_batch(train, drawn, optimizer, scaler):
    args = {"optimizer": optimizer, "lr0": 0.001}
    oracle = train(Arm(str(drawn["detect"]), args=args, undo=[(2, 1)], scaler=scaler), "oracle")
    guarded = train(Arm(str(drawn["detect"]), args=args, nan_pixel=[(2, 1)], scaler=scaler, guard={}), "guarded")
    assert_survived(guarded, (2, 1))
    assert guarded.digests == oracle.digests


def test_the_first_batch_of_all_leaves_no_trace(train, drawn):
    oracle = train(Arm(str(drawn["detect"]), undo=[(1, 1)]), "oracle")
    guarded = train(Arm(str(drawn["detect"]), nan_pixel=[(1, 1)], guard={}), "guarded")
    assert_survived(guarded, (1, 1))
    assert guarded.digests == oracle.digests


def test_accumulation_drops_the_window_of_the_bad_batch(train, drawn):
    # 4 batches an epoch and one step every 2 after warm-up; the bad batch opens a window.
    args = {"batch": 2, "nbs": 4, "warmup_epochs": 0}
    guarded = train(Arm(str(drawn["detect"]), args=args, nan_pixel=[(2, 2)], guard={}))
    assert_survived(guarded, (2, 2))
    [incident] = guarded.incidents()
    assert incident["epoch"] == 2
    assert len(incident["images"]) == 1, "only the image at fault is named"
    assert sum(row["verdict"] == "bad_batch" for row in guarded.steps) == 1


def test_a_bad_batch_that_comes_to_no_step_before_the_epoch_ends(train, drawn):
    # 3 batches an epoch, a step every 2: the last batch of epoch 1 waits for the next epoch.
    args = {"batch": 3, "nbs": 6, "warmup_epochs": 0}
    guarded = train(Arm(str(drawn["detect"]), args=args, nan_pixel=[(1, 3)], guard={}))
    assert_survived(guarded, (1, 3))
    [incident] = guarded.incidents()
    assert (incident["epoch"], incident["batch"]) == (1, 3)
    assert "no optimizer step had used yet" in incident["message"]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_under_autocast(train, drawn, precision):
    scaler = 1024.0 if precision == "float16" else None
    guarded = train(Arm(str(drawn["detect"]), nan_pixel=[(1, 2)], scaler=scaler, autocast=precision, guard={}))
    assert_survived(guarded, (1, 2))


def test_every_batch_of_an_epoch_is_bad(train, drawn):
    guarded = train(Arm(str(drawn["detect"]), nan_pixel=[(1, 1), (1, 2)], guard={}))
    assert guarded.error == ""
    assert len(guarded.fired) == 2
    assert guarded.not_finite == {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}
    first, *others = ([row["train/box_loss"], row["train/cls_loss"]] for row in guarded.losses())
    assert first == ["nan", "nan"], "nothing good was seen"
    assert "nan" not in json.dumps(others)
    assert guarded.events["on_train_epoch_start"] == 3, "no epoch was redone"


def test_after_epochs_of_bad_batches_training_goes_on_as_if_they_had_not_been(train, drawn):
    places, args = [(2, 1), (2, 2), (3, 1), (3, 2)], {"epochs": 5, "lr0": 0.001}
    oracle = train(Arm(str(drawn["detect"]), args=args, undo=places), "oracle")
    guarded = train(Arm(str(drawn["detect"]), args=args, nan_pixel=places, guard={}), "guarded")
    assert (guarded.error, guarded.fired) == ("", [list(place) for place in places])
    assert {incident["kind"] for incident in guarded.incidents()} == {"bad_batch"}, "no file is at fault"
    assert guarded.digests == oracle.digests


@pytest.mark.parametrize("how", ["stop", "raise"])
def test_too_many_in_a_row_end_the_training(train, drawn, how):
    places = [(2, 1), (2, 2), (3, 1), (3, 2)]
    options = {"recovery": {"max_skips": 2, "on_exhausted": how}}
    guarded = train(Arm(str(drawn["detect"]), nan_pixel=places, guard=options, args={"epochs": 5}))
    assert guarded.fired == [list(place) for place in places[:3]]
    assert ("TrainingStopped: 3 optimizer steps in a row" in guarded.error) == (how == "raise")
    assert "stop" in [incident["kind"] for incident in guarded.incidents()]
    summary = json.loads((guarded.run / "stability.json").read_text())
    assert (summary["health"], summary["status"]) == ("failed", "failed")
    assert "3 optimizer steps in a row were skipped" in summary["headline"]
    assert guarded.not_finite == ({} if how == "raise" else {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0})
    assert (guarded.run / "weights" / "last.pt").is_file()
    shown = [row["train/box_loss"] for row in guarded.losses()]
    assert shown[0] != "nan"
    assert set(shown[1:]) <= {"nan"}, "no batch of the later epochs was good"


def test_checkpoint_loads_without_the_plugin(train, drawn):
    guarded = train(Arm(str(drawn["detect"]), nan_pixel=[(1, 2)], guard={}))
    code = (
        "import sys; sys.modules['yolo_gradsafe'] = None\n"
        "import torch, ultralytics\n"
        "for name in ('last', 'best'):\n"
        f"    state = ultralytics.YOLO(r'{guarded.run}/weights/' + name + '.pt').model.state_dict()\n"
        "    assert all(t.isfinite().all() for t in state.values())\n"
        "    assert sum(not t.any() for k, t in state.items() if k.endswith('running_var')) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=guarded.run, timeout=120)


def test_stock_dies_of_the_same_batch(train, drawn):
    stock = train(Arm(str(drawn["detect"]), nan_pixel=[(1, 2), (2, 2)]))
    assert stock.error or any(stock.not_finite.values()) or "nan" in json.dumps(stock.results)
