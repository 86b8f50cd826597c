"""Where the training stands, as it is read from the trainer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

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
