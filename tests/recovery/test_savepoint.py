"""Batch-norm statistics and shown losses are put back, to the bit and as often as one likes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from yolo_gradsafe.recovery.savepoint import BufferSavepoint, LossSavepoint


def test_a_nan_forward_pass_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model(torch.randn(2, 3, 4, 4))
    savepoint = BufferSavepoint(list(model.buffers()))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    places = {name: buffer.data_ptr() for name, buffer in model.named_buffers()}

    model(torch.full((2, 3, 4, 4), math.nan))
    assert model[1].running_var.isnan().any(), "the fault did not fire"
    savepoint.rollback()

    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
        assert buffer.data_ptr() == places[name], "restored in place: the EMA holds references"


def test_commit_takes_over_what_is_live():
    norm = nn.BatchNorm2d(2)
    savepoint = BufferSavepoint(list(norm.buffers()))
    norm(torch.randn(4, 2, 3, 3))
    savepoint.observe()
    savepoint.commit()
    good = norm.running_mean.clone()
    norm(torch.randn(4, 2, 3, 3))
    savepoint.rollback()
    assert torch.equal(norm.running_mean, good)
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_a_look_tells_whether_all_are_finite(buffer):
    norms = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(4))
    savepoint = BufferSavepoint(list(norms.buffers()))
    assert savepoint.observe().isfinite()
    getattr(norms[1], buffer)[3] = math.nan
    assert not savepoint.observe().isfinite()
    assert not savepoint.finite()


def test_a_look_that_is_not_committed_changes_nothing():
    norm = nn.BatchNorm2d(2)
    savepoint = BufferSavepoint(list(norm.buffers()))
    for _ in range(3):
        norm(torch.randn(4, 2, 3, 3))
        savepoint.observe()
    savepoint.rollback()
    assert int(norm.num_batches_tracked) == 0
    assert not norm.running_mean.any()


def test_a_model_without_buffers_needs_nothing():
    savepoint = BufferSavepoint([])
    assert savepoint.observe().isfinite()
    savepoint.commit()
    savepoint.rollback()


def test_a_second_commit_does_not_bring_older_statistics_back():
    norm = nn.BatchNorm2d(2)
    savepoint = BufferSavepoint(list(norm.buffers()))
    norm(torch.randn(4, 2, 3, 3))
    savepoint.observe()
    savepoint.commit()
    good = norm.running_mean.clone()
    savepoint.commit()
    norm(torch.full((4, 2, 3, 3), math.nan))
    savepoint.rollback()
    savepoint.rollback()
    assert torch.equal(norm.running_mean, good)
    assert int(norm.num_batches_tracked) == 1


class Trainer:
    """What the savepoint of the losses needs of a trainer."""

    def __init__(self) -> None:
        self.loss = torch.tensor(2.0)
        self.running_loss = torch.tensor([2.0])

    def set_loss(self, loss: torch.Tensor) -> None:
        self.loss = loss

    def set_running_loss(self, value: object) -> None:
        self.running_loss = value

    def unknown_running_loss(self) -> torch.Tensor:
        return torch.full((1,), math.nan)


def test_the_shown_losses_are_those_of_the_last_good_batch():
    trainer = Trainer()
    savepoint = LossSavepoint(trainer)
    savepoint.commit()
    trainer.loss, trainer.running_loss = torch.tensor(math.nan), torch.tensor([math.nan])
    for _ in range(2):
        savepoint.rollback()
        assert (float(trainer.loss), trainer.running_loss.tolist()) == (2.0, [2.0])


def test_an_epoch_without_a_good_batch_starts_its_mean_with_the_first_one():
    trainer = Trainer()
    savepoint = LossSavepoint(trainer)
    savepoint.commit()
    savepoint.begin_epoch()
    savepoint.begin_batch()
    trainer.running_loss = torch.tensor([math.nan])
    savepoint.rollback()
    assert math.isnan(float(trainer.running_loss)), "nothing good was seen: neither 0 nor the last epoch's"
    assert float(trainer.loss) == 2.0, "finite, or Ultralytics would redo the epoch"
    savepoint.begin_batch()
    assert trainer.running_loss is None
