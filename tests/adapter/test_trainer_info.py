"""Where the training stands, as it is read from the trainer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.utils.torch_utils import ModelEMA

from yolo_gradsafe.adapter.trainer_info import TrainerInfo


@pytest.fixture
def info():
    weights, biases = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([{"params": []}, {"params": [biases], "lr": 0.1}, {"params": [weights], "lr": 0.002}])
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.01
    found = TrainerInfo()
    found.trainer = SimpleNamespace(optimizer=optimizer)
    return found


def test_the_rate_is_that_of_the_weight_matrices_as_a_share_of_where_their_schedule_starts(info):
    assert (info.lr_share, info.lr_peak) == (pytest.approx(0.2), 0.01)


def test_a_rate_above_that_is_its_own_peak(info):
    info.trainer.optimizer.param_groups[2]["lr"] = 0.04
    assert (info.lr_share, info.lr_peak) == (1.0, 0.01)


def test_an_optimizer_without_a_schedule_has_no_peak(info):
    for group in info.trainer.optimizer.param_groups:
        del group["initial_lr"]
    assert (info.lr_share, info.lr_peak) == (1.0, 0.0)


def batch_norms(trained: int) -> nn.Module:
    model = nn.Sequential(*(nn.BatchNorm2d(3) for _ in range(3)))
    for norm in model[:trained]:
        norm.running_mean[0] = 0.1
    return model


@pytest.mark.parametrize(("trained", "pretrained"), [(0, False), (1, False), (2, True), (3, True)])
def test_weights_were_trained_where_most_batch_norms_have_seen_images(trained, pretrained):
    found = TrainerInfo()
    found.trainer = SimpleNamespace(model=batch_norms(trained))
    assert found.pretrained is pretrained, "a new head alone tells nothing, and hides nothing"


def test_the_teacher_of_a_distillation_does_not_count():
    model = nn.Module()
    model.student_model, model.teacher_model = batch_norms(trained=0), nn.Sequential(batch_norms(3), batch_norms(3))
    found = TrainerInfo()
    found.trainer = SimpleNamespace(model=model)
    assert not found.pretrained


def test_a_model_without_batch_norm_tells_nothing():
    found = TrainerInfo()
    found.trainer = SimpleNamespace(model=nn.Linear(2, 2))
    assert not found.pretrained


@pytest.mark.parametrize("name", ["yolo11n", "yolov8n", "yolo11n-pose"])
def test_a_new_model_is_not_pretrained_and_its_checkpoint_is(name):
    model = YOLO(f"{name}.yaml")
    found = TrainerInfo()
    found.trainer = SimpleNamespace(model=model.model)
    assert not found.pretrained
    ema = ModelEMA(model.model)
    model.model.train()(torch.rand(2, 3, 32, 32))
    ema.update(model.model)
    found.trainer = SimpleNamespace(model=ema.ema)
    assert found.pretrained
