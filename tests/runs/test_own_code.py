"""Faults of the user's own code: the incident names the part and the line, and no innocent is accused."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.arm import Arm, Result
from yolo_gradsafe.cli import app

LOSS = """
import ultralytics.utils.loss as loss

stock, bad = loss.bbox_iou, [False]


def bbox_iou(a, b, **options):
    iou = stock(a, b, **options)
    if bad[0]:
        gap = iou * 0
        iou = iou + gap / gap
    return iou


loss.bbox_iou = bbox_iou


def arm(places):
    def choose(trainer):
        bad[0] = (trainer.epoch + 1, trainer.batch_number) in places
    return choose
"""

WEIGHT = """
import torch.nn as nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss


class WeightedBCE(nn.Module):
    def forward(self, scores, targets):
        return nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none") * float("inf")


def init_criterion(model):
    criterion = v8DetectionLoss(model)
    criterion.bce = WeightedBCE()
    return criterion


DetectionModel.init_criterion = init_criterion
"""

EVAL = """
import torch.nn as nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss


class EvalBCE(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = [model]

    def forward(self, scores, targets):
        loss = nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return loss if self.model[0].training else loss * float("inf")


def init_criterion(model):
    criterion = v8DetectionLoss(model)
    criterion.bce = EvalBCE(model)
    return criterion


DetectionModel.init_criterion = init_criterion
"""

UNASSIGNED = """
import torch
from ultralytics.utils import tal

stock = tal.TaskAlignedAssigner.forward


def forward(assigner, *args, **options):
    labels, boxes, scores, masks, *others = stock(assigner, *args, **options)
    return labels, boxes, torch.zeros_like(scores), torch.zeros_like(masks), *others


tal.TaskAlignedAssigner.forward = forward
"""

INDEX = """
from ultralytics.models.yolo.detect import DetectionTrainer


def index(trainer, batch):
    if trainer.epoch == 1:
        image = batch["img"]
        image[1, :, :2, :2] = 0
        batch["img"] = image / image
    return batch


def wrap(trainer):
    own = trainer.preprocess_batch

    def preprocess_batch(batch):
        return index(trainer, own(batch))

    trainer.preprocess_batch = preprocess_batch


def replace():
    own = DetectionTrainer.preprocess_batch
    DetectionTrainer.preprocess_batch = lambda trainer, batch: index(trainer, own(trainer, batch))
"""


def line_of(module: str, part: str) -> int:
    """Return the number of the line that holds a text."""
    return next(number for number, line in enumerate(module.splitlines(), 1) if part in line)


@pytest.fixture
def own(tmp_path):
    """Write a module of the user's, and return the statements that import it."""

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {name}\n"

    return write


def kinds(result: Result) -> list[str]:
    return [incident["kind"] for incident in result.incidents()]


def summary(result: Result) -> dict:
    return json.loads((result.run / "stability.json").read_text())


def test_a_loss_that_divides_zero_by_zero_costs_its_batches_and_names_its_line(train, drawn, own):
    code = own("my_loss", LOSS)
    count = "callbacks['on_train_batch_start'].append(my_loss.arm({}))"
    places = [(2, 1), (3, 1)]
    oracle = train(Arm(str(drawn["detect"]), code=code, undo=places), "oracle")
    guarded = train(Arm(str(drawn["detect"]), code=code + count.format(places), guard={}), "guarded")
    assert guarded.error == ""
    assert kinds(guarded) == ["bad_batch", "bad_batch"], "never a rollback, never another rate"
    for incident in guarded.incidents():
        assert (incident["cause"], incident["remedies"]) == ("loss", ["skipped"])
        assert incident["source"] == f"my_loss.py:{line_of(LOSS, 'gap / gap')}"
        assert incident["source_text"] == "iou = iou + gap / gap"
        assert "divisors are 0" in incident["operation"]
        assert "although all outputs of the model are finite" in incident["culprit"]
    assert guarded.digests == oracle.digests
    [advice] = [a for a in summary(guarded)["advice"] if a["rule"] == "own_code"]
    assert "my_loss.py" in advice["title"]


def test_a_training_that_cannot_succeed_ends_early_and_says_why(train, drawn, own):
    code = own("my_weights", WEIGHT)
    options = {"recovery": {"hopeless_after": 3}}
    result = train(Arm(str(drawn["detect"]), "yolov8n.yaml", code=code, guard=options))
    assert result.error == ""
    assert len(result.steps) == 3, "of 6"
    stop = next(incident for incident in result.incidents() if incident["kind"] == "stop")
    assert (stop["cause"], stop["budget"], stop["count"]) == ("every_batch", "hopeless_after", 3)
    assert stop["source"] == f"my_weights.py:{line_of(WEIGHT, 'float(')}"
    assert {i["cause"] for i in result.incidents() if i["kind"] == "bad_batch"} == {"loss", "every_batch"}
    told = summary(result)
    assert (told["health"], told["status"]) == ("failed", "failed")
    assert "each of the first 3 steps failed: cls_loss is not finite" in told["headline"]
    assert [a["rule"] for a in told["advice"]] == ["own_code"], "nothing else, such as the images, is to blame"
    assert {row["train/cls_loss"] for row in result.results} == {"nan"}, "neither 0 nor a number of before"


# A method of the class is run again, to find the line; a function put on the trainer may count its calls and is not.
HOOKS = {
    "method": ("my_index.replace()", "image / image"),
    "function": ("callbacks['on_train_start'].append(my_index.wrap)", "def preprocess_batch"),
}


@pytest.mark.parametrize("how", HOOKS)
def test_a_nan_of_the_trainers_own_preprocessing_is_not_blamed_on_the_file(train, drawn, own, how):
    install, part = HOOKS[how]
    code = own("my_index", INDEX) + install
    result = train(Arm(str(drawn["detect"]), code=code, guard={}, args={"mosaic": 0.0}))
    assert result.error == ""
    assert result.incidents(), "the fault did not fire"
    for incident in result.incidents():
        assert (incident["cause"], incident["stage"]) == ("preprocessing", "preprocess_batch")
        assert incident["source"] == f"my_index.py:{line_of(INDEX, part)}"
        assert "the file and the loaded batch are fine" in incident["culprit"]
        assert all(Path(image).is_file() for image in incident["images"])


FREEZE = textwrap.dedent("""
    def freeze(trainer):
        if trainer.epoch == 1:
            for name, parameter in trainer.model.named_parameters():
                if int(name.split(".")[1]) < 11:
                    parameter.requires_grad = False
    callbacks['on_train_epoch_start'].append(freeze)
""")


def test_what_the_user_freezes_has_not_died(train, drawn):
    args = {"epochs": 4, "batch": 1, "nbs": 1}
    stock = train(Arm(str(drawn["detect"]), code=FREEZE, args=args), "stock")
    result = train(Arm(str(drawn["detect"]), code=FREEZE, args=args, guard={}), "guarded")
    assert result.digests == stock.digests
    assert result.incidents() == []
    assert not {a["rule"] for a in summary(result)["advice"]} & {"layer_dead", "stage_vanishes"}
    assert {row["norm/backbone"] for row in result.steps if int(row["epoch"]) > 1} == {"nan"}


def test_a_loss_that_is_inf_in_validation_alone_costs_nothing_and_is_named(train, drawn, own):
    code = own("my_eval", EVAL)
    args = {"epochs": 4, "optimizer": "AdamW", "lr0": 0.001}
    stock = train(Arm(str(drawn["detect"]), "yolov8n.yaml", code=code, args=args), "stock")
    guarded = train(Arm(str(drawn["detect"]), "yolov8n.yaml", code=code, args=args, guard={}), "guarded")
    assert {row["val/cls_loss"] for row in guarded.results} == {"inf"}, "the fault fired"
    assert guarded.digests == stock.digests
    assert guarded.losses() == stock.losses()
    assert [(i["kind"], i["term"]) for i in guarded.incidents()] == [("validation", "val/cls_loss")]
    told = summary(guarded)
    assert not {"validation_loss", "rate_too_high"} & {reason["reason"] for reason in told["reasons"]}
    assert not any("lr0" in advice["arguments"] for advice in told["advice"])


def test_an_assigner_that_assigns_nothing_is_no_learning(train, drawn, own):
    args = {"epochs": 6, "batch": 2, "nbs": 2, "optimizer": "AdamW", "lr0": 0.001}
    code = own("my_assigner", UNASSIGNED)
    result = train(Arm(str(drawn["detect"]), "yolov8n.yaml", code=code, args=args, guard={}))
    assert {row["box_loss"] for row in result.steps} == {row["dfl_loss"] for row in result.steps} == {"0"}
    told = summary(result)
    assert (told["health"], told["learned"]) == ("healthy", "no")
    first = told["reasons"][0]
    assert (first["reason"], first["names"]) == ("loss_zero", ["box_loss", "dfl_loss"])
    assert told["headline"].startswith("Did not learn: mAP50 0 after 6 epochs; box_loss and dfl_loss were exactly 0")
    assert told["advice"][0]["rule"] == "loss_zero"
    judged = CliRunner().invoke(app, ["report", str(result.run), "--strict", "--no-plot"])
    assert judged.exit_code == 4
    assert "--strict: the run did not learn" in judged.output
