"""Parameters that the optimizer holds and the model does not, such as learnable weights of the losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.fake_trainer import Core, Tiny, TinyModel, batch_of, differing, nan_batch
from yolo_gradsafe.telemetry.schema import Cause, Kind

PLACE = "param_groups[1][0]"


class Weighted(TinyModel):
    """Weighs its losses by what it learns, in a parameter that is none of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = [nn.Parameter(torch.zeros(2))]

    def forward(self, batch):
        losses, items = super().forward(batch)
        [weight] = self.log_variance
        losses = losses * (-weight).exp() + weight
        if "root" in batch:  # 0, and its derivative is infinite
            losses = losses + (weight - weight.detach()).sqrt()
        return losses, items


def trainer(folder, optimizer: type = torch.optim.SGD, scaler: float | None = None) -> Tiny:
    raw = Tiny(folder, optimizer, scaler, model=Weighted)
    raw.optimizer.add_param_group({"params": raw.model.log_variance, "lr": 0.01})
    return raw


def weight_of(raw: Tiny) -> nn.Parameter:
    return raw.model.log_variance[0]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_healthy_run_is_stocks_and_snapshots_are_taken(tmp_path, optimizer):
    core, stock = Core(tmp_path, trainer(tmp_path, optimizer)), trainer(tmp_path, optimizer)
    stock.begin_epoch()
    core.train(6)
    for seed in range(6):
        stock.take(batch_of(seed))
    assert core.incidents() == []
    assert core.rollback.trusted.step > 0
    assert weight_of(stock).all(), "it is trained"
    assert not differing(core.raw.state(), stock.state())
    assert {f"outside/{PLACE}"} < core.trainer.state.outside().keys() <= core.raw.state().keys()
    assert not any(PLACE in name for name in core.trainer.state.optimizer()), "DDP does not keep it equal"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_it_goes_back_with_the_weights(tmp_path, optimizer):
    core = Core(tmp_path, trainer(tmp_path, optimizer))
    core.train(2)
    then = core.raw.state()
    core.train(2, start=2)
    assert {f"outside/{PLACE}"} < differing(core.raw.state(), then)
    assert core.rollback.roll_back(4).snapshot == 2
    assert not differing(core.raw.state(), then)


def test_its_moments_are_forgotten_where_the_snapshot_has_none(tmp_path):
    core = Core(tmp_path, trainer(tmp_path))
    core.train(1)
    assert weight_of(core.raw) in core.raw.optimizer.state
    core.rollback.roll_back(1)
    assert not core.raw.optimizer.state
    assert not weight_of(core.raw).any()


def test_a_bad_batch_leaves_it_as_it_is(tmp_path):
    core = Core(tmp_path, trainer(tmp_path))
    core.train(4)
    before = core.raw.state()
    core.raw.take(nan_batch())
    assert core.kinds() == [Kind.BAD_BATCH]
    assert not differing(core.raw.state(), before)


@pytest.mark.parametrize("scaler", [None, 1.0])
def test_a_gradient_of_it_that_is_not_finite_is_seen(tmp_path, scaler):
    core = Core(tmp_path, trainer(tmp_path, scaler=scaler))
    core.train(4)
    before = core.raw.state()
    core.raw.backward({**batch_of(4), "root": True})
    assert core.raw.loss.isfinite()
    assert weight_of(core.raw).grad.isinf().all(), "the fault did not fire"
    core.raw.optimizer_step()
    [told] = core.incidents()
    assert (told.kind, told.tensors) == (Kind.BAD_BATCH, [PLACE])
    assert told.cause == Cause.LOSS, "the batch fails again, and the model's outputs are finite"
    assert differing(core.raw.state(), before) <= {"scale"}
    assert weight_of(core.raw).isfinite().all()


def test_a_micro_batch_is_taken_out_of_its_gradient(tmp_path):
    core = Core(tmp_path, trainer(tmp_path), isolate="always")
    core.raw.backward(batch_of(1))
    good = weight_of(core.raw).grad.clone()
    core.raw.run_callbacks("on_train_batch_end")
    core.raw.backward({**batch_of(2), "root": True})
    core.raw.run_callbacks("on_train_batch_end")
    assert core.kinds() == [Kind.ISOLATED]
    assert torch.equal(weight_of(core.raw).grad, good)


def test_it_is_repaired(tmp_path):
    core = Core(tmp_path, trainer(tmp_path))
    core.train(4)
    good = core.rollback.trusted._tensors[f"outside/{PLACE}"].clone()
    weight_of(core.raw).data[1] = math.nan
    core.raw.take(batch_of(4))
    told = core.incidents()
    assert [incident.kind for incident in told] == [Kind.POISONED, Kind.HEALED]
    assert told[1].tensors == [f"outside/{PLACE}"]
    assert weight_of(core.raw)[1] == good[1]


def test_one_that_comes_later_is_kept_at_a_rollback(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    late = nn.Parameter(torch.ones(2))
    core.raw.optimizer.add_param_group({"params": [late], "lr": 0.01})
    late.grad = torch.ones(2)
    core.raw.take(batch_of(4))
    assert not torch.equal(late, torch.ones(2))
    core.rollback.roll_back(5)
    assert late not in core.raw.optimizer.state
    assert core.incidents()[0].kind is Kind.ROLLBACK
