"""Where the training stands, as it is read from the trainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
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
    assert info.lr_share_and_peak() == (pytest.approx(0.2), 0.01)


def test_a_rate_above_that_is_its_own_peak(info):
    info.trainer.optimizer.param_groups[2]["lr"] = 0.04
    assert info.lr_share_and_peak() == (1.0, 0.01)


def test_an_optimizer_without_a_schedule_has_no_peak(info):
    for group in info.trainer.optimizer.param_groups:
        del group["initial_lr"]
    assert info.lr_share_and_peak() == (1.0, 0.0)


# The user's own schedule ---------------------------------------------------------------------------------------------


def scheduled(info: TrainerInfo, scheduler: type[Any], *args: Any, warmup: int = 0, **options: Any) -> Any:
    """Give a trainer that is in the middle of its ten epochs a scheduler, as Ultralytics does."""
    trainer = info.trainer
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.01
    trainer.scheduler = scheduler(trainer.optimizer, *args, **options)
    trainer.epoch, trainer.train_loader = 5, range(8)
    trainer._get_warmup_iterations = lambda batches: warmup * batches
    return trainer.scheduler


def test_ultralytics_schedule_falls_below_its_peak(info):
    scheduler = scheduled(info, LambdaLR, lambda epoch: 1 - epoch / 10)
    seen = []
    for _ in range(9):
        seen.append(info.lr_share_and_peak())
        scheduler.step()
    assert seen == [(pytest.approx(1 - epoch / 10), 0.01) for epoch in range(9)]


def test_a_plateau_that_only_the_scheduler_knows_of_lowers_the_peak(info):
    scheduler = scheduled(info, LambdaLR, lambda epoch: 0.5)
    scheduler.base_lrs = [rate * 0.1 for rate in scheduler.base_lrs]
    scheduler.step()
    assert info.lr_share_and_peak() == (pytest.approx(0.5), pytest.approx(0.001))


@pytest.mark.parametrize(("warmup", "peak"), [(5, 0.001), (6, 0.01)])
def test_in_the_warm_up_the_groups_tell(info, warmup, peak):
    scheduler = scheduled(info, LambdaLR, lambda epoch: 1.0, warmup=warmup)
    scheduler.base_lrs = [rate * 0.1 for rate in scheduler.base_lrs]
    scheduler.step()
    assert info.lr_share_and_peak()[1] == pytest.approx(peak)


@pytest.mark.parametrize(("warmup", "found"), [(5, (1.0, 0.001)), (6, (0.1, 0.01))])
def test_a_rate_that_the_user_writes_into_the_groups_alone_is_its_own_peak_after_the_warm_up(info, warmup, found):
    scheduled(info, LambdaLR, lambda epoch: 0.5, warmup=warmup)
    for group in info.trainer.optimizer.param_groups:
        group["lr"] = 0.001
    assert info.lr_share_and_peak() == (pytest.approx(found[0]), found[1])


def test_one_cycle_falls_from_its_top_and_not_from_where_it_starts(info):
    scheduler = scheduled(info, OneCycleLR, max_lr=0.25, total_steps=100)
    shares = []
    for _ in range(99):
        assert info.lr_share_and_peak()[1] == 0.25
        shares.append(info.lr_share_and_peak()[0])
        info.trainer.optimizer.step()
        scheduler.step()
    assert shares[0] == pytest.approx(0.04)
    top = shares.index(max(shares))
    assert shares[top] == pytest.approx(1.0)
    assert shares[top:] == sorted(shares[top:], reverse=True)


def test_a_group_that_was_added_later_tells_for_itself(info):
    scheduled(info, LambdaLR, lambda epoch: 0.5)
    late = {"params": [nn.Parameter(torch.zeros(2, 2))], "lr": 0.03, "initial_lr": 0.04}
    info.trainer.optimizer.add_param_group(late)
    assert info.lr_share_and_peak() == (pytest.approx(0.75), 0.04)


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
