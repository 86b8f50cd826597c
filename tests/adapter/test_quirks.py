"""What differs between the supported versions of Ultralytics, each seen to be coped with on the installed one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import ultralytics

from tests.arm import Arm
from yolo_gradsafe.adapter.display import TrainerDisplay

VERSION = tuple(map(int, ultralytics.__version__.split(".")[:3]))
FINITE = {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}


def kinds(result) -> list[str]:
    return [incident["kind"] for incident in result.incidents()]


def assert_finished(result, epochs: int) -> None:
    assert result.error == "", result.log[-2000:]
    assert result.not_finite == FINITE
    assert len(result.results) == epochs
    assert "nan" not in json.dumps(result.losses())
    assert "internal error" not in result.log


# Losses: a tensor with names on the trainer up to 8.4.103, a dict after; no names before the first batch then.


def shown(**trainer) -> TrainerDisplay:
    host = TrainerDisplay()
    host.trainer = SimpleNamespace(loss=torch.tensor(3.0), **trainer)
    return host


@pytest.mark.parametrize(
    "trainer",
    [
        {"loss_items": torch.tensor([1.0, 2.0]), "loss_names": ("box_loss", "cls_loss")},
        {"loss_items": {"box_loss": torch.tensor(1.0), "cls_loss": torch.tensor([2.0])}, "loss_names": ()},
    ],
    ids=["tensor", "dict"],
)
def test_loss_items_of_either_form(trainer):
    host = shown(**trainer)
    names, values = host.loss_items()
    assert (names, torch.cat([v.reshape(-1) for v in values]).tolist()) == (("box_loss", "cls_loss"), [1.0, 2.0])
    assert type(host.unknown_running_loss()) is type(trainer["loss_items"])


def test_one_loss_that_is_named_by_a_word():
    names, values = shown(loss_items=torch.tensor(1.0), loss_names="loss").loss_items()
    assert (names, torch.cat([v.reshape(-1) for v in values]).tolist()) == (("loss",), [1.0])


# An epoch that Ultralytics redoes: without a step up to 8.4.171, and with an EMA that is another object.

# Loss and fitness are NaN at the end of the second epoch: every form of the native recovery acts on both together.
NATIVE = """
def spoil(trainer):
    validate = trainer.validate
    def spoilt():
        metrics, fitness = validate()
        if trainer.epoch == 1 and not getattr(trainer, "spoilt", False):
            trainer.spoilt = True
            trainer.loss = trainer.loss * float("nan")
            trainer.emas = [id(trainer.ema.ema)]
            fitness = float("nan")
        return metrics, fitness
    trainer.validate = spoilt
def poison(trainer):
    if trainer.epoch == 2 and len(trainer.emas) == 1:
        trainer.emas.append(id(trainer.ema.ema))
        print("another EMA", trainer.emas[0] != trainer.emas[1])
        next(iter(trainer.ema.ema.parameters())).data.view(-1)[0] = float("nan")
callbacks.setdefault("on_train_start", []).append(spoil)
callbacks.setdefault("on_train_batch_end", []).append(poison)
"""


def test_an_epoch_that_ultralytics_redoes(train, drawn):
    result = train(Arm(str(drawn["detect"]), guard={}, code=NATIVE, args={"epochs": 4}))
    assert "recovering from last.pt" in result.log, "the fault did not fire"
    assert_finished(result, epochs=4)
    assert kinds(result).count("native_recovery") == result.log.count("recovering from last.pt")
    steps = [int(row["epoch"]) for row in result.steps]
    assert steps.count(2) == (4 if VERSION >= (8, 4, 172) else 2), "up to 8.4.171 the repeated epoch takes no step"
    assert steps.count(3) >= 2
    assert "another EMA True" in result.log
    assert "healed" in kinds(result)


# Out of memory in the first epoch: half the batch, and up to 8.4.159 another optimizer.

MEMORY = """
def short(trainer):
    preprocess = trainer.preprocess_batch
    def preprocess_batch(batch):
        if trainer.epoch == 0 and trainer.batch_number == 2 and trainer.batch_size == 4:
            trainer.old = id(trainer.optimizer)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return preprocess(batch)
    trainer.preprocess_batch = preprocess_batch
callbacks.setdefault("on_train_start", []).append(short)
callbacks.setdefault("on_train_end", []).append(lambda t: print("another optimizer", t.old != id(t.optimizer)))
"""


@pytest.mark.skipif(VERSION < (8, 4, 13), reason="Ultralytics retries with half the batch from 8.4.13 on")
def test_the_retry_after_out_of_memory(train, drawn):
    # 8 images in batches of 4, then 2: the NaN comes with the other optimizer.
    args = {"optimizer": "AdamW", "lr0": 0.001}
    result = train(Arm(str(drawn["detect"]), guard={}, code=MEMORY, args=args, nan_pixel=[(2, 1)]))
    assert_finished(result, epochs=3)
    assert f"another optimizer {VERSION < (8, 4, 160)}" in result.log
    assert result.fired == [[2, 1]]
    assert kinds(result) == ["bad_batch"]
    assert [int(row["epoch"]) for row in result.steps].count(3) in {2, 4}


# Up to 8.4.61 validation under AMP on a GPU leaves inference tensors in the EMA.

HALVED = """
def halve(trainer):
    with torch.inference_mode():
        trainer.ema.ema.half()
        trainer.ema.ema.float()
    print("inference", sum(p.is_inference() for p in trainer.ema.ema.parameters()) > 0)
    if trainer.epoch == 1:
        value = next(v for v in trainer.ema.ema.state_dict().values() if v.is_floating_point())
        value.copy_(value * float("nan"))
callbacks.setdefault("on_model_save", []).append(halve)
"""


def test_an_ema_of_inference_tensors_is_healed(train, drawn):
    result = train(Arm(str(drawn["detect"]), guard={}, code=HALVED))
    assert "inference True" in result.log
    assert_finished(result, epochs=3)
    assert "healed" in kinds(result)
