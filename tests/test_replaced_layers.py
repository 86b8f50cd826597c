"""Layers that a callback of the user replaces, freezes or adds are guarded like those that were there at the start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from ultralytics.utils.torch_utils import EarlyStopping, ModelEMA

from tests.fake_trainer import Core, Tiny, batch_of, differing, nan_batch
from yolo_gradsafe import GradSafe
from yolo_gradsafe.gradients.layer_groups import LayerGroups, Layout
from yolo_gradsafe.telemetry.schema import Kind

OFF = {"check_data": False, "pictures": 0, "archive": False}


def replace_layers(raw: Tiny) -> None:
    """Put a new norm and a new head in place, and make optimizer and EMA anew."""
    torch.manual_seed(5)
    raw.model.norm, raw.model.head = nn.BatchNorm2d(2, momentum=0.03), nn.Linear(2, 1)
    with torch.no_grad():
        raw.model.head.weight.mul_(100)  # gradients are clipped
    rebuild(raw)


def replace_by_others(raw: Tiny) -> None:
    """Put a head of other names in place."""
    torch.manual_seed(5)
    raw.model.add_module("more", nn.Linear(2, 2))
    raw.model.head = nn.Sequential(raw.model.more, nn.BatchNorm1d(2), nn.Linear(2, 1))
    rebuild(raw)


def rebuild(raw: Tiny) -> None:
    raw.optimizer = torch.optim.SGD(raw.model.parameters(), lr=0.001)
    raw.ema = ModelEMA(raw.model)


def before_training(raw: Tiny, change: Callable[[Tiny], None], guard: GradSafe | None) -> Tiny:
    """Come to the first batch, with a callback of the user that runs after the guard's."""
    raw.callbacks["on_pretrain_routine_end"].append(change)
    if guard is not None:
        raw.stopper = None  # it is not set up yet
        guard.attach(raw)
        raw.stopper = EarlyStopping()
    raw.run_callbacks("on_pretrain_routine_end")
    raw.begin_epoch()
    return raw


@pytest.mark.parametrize("change", [replace_layers, replace_by_others])
def test_layers_that_are_replaced_before_training_are_guarded(tmp_path, change):
    guard = GradSafe(forensics=OFF, recovery={"trust_steps": 2, "snapshot_share": 1.0})
    guarded, stock = before_training(Tiny(tmp_path), change, guard), before_training(Tiny(tmp_path), change, None)
    for seed in range(5):
        guarded.take(batch_of(seed))
        stock.take(batch_of(seed))
    assert not differing(guarded.state(), stock.state())
    session = guard._session(guarded)
    assert session.step.recovery.rollback.trusted.step > 0
    before = guarded.state()
    guarded.backward(nan_batch())
    assert guarded.model.norm.running_mean.isnan().all(), "the fault did not fire"
    guarded.optimizer_step()
    guarded.run_callbacks("on_train_batch_end")
    assert not differing(guarded.state(), before)
    guarded.run_callbacks("on_train_epoch_end")
    assert not session.boundary.faults
    names = [name for name, _ in guarded.model.named_parameters()]
    assert session.step.measurement.groups.layers == LayerGroups(names, Layout(0, 0)).layers


def second_epoch(raw: Tiny, change: Callable[[Tiny], None]) -> None:
    """Let a callback of the user change the model when the second epoch starts, after the guard's callback has run."""
    raw.run_callbacks("on_train_epoch_end")
    raw.epoch = 1
    raw.callbacks["on_train_epoch_start"].append(change)
    raw.begin_epoch()


def test_layers_that_are_replaced_in_training_are_guarded_and_never_rolled_back_to_others(tmp_path):
    core, stock = Core(tmp_path), Tiny(tmp_path)
    stock.begin_epoch()
    for raw in (core.raw, stock):
        for seed in range(4):
            raw.take(batch_of(seed))
        second_epoch(raw, replace_layers)
    start = core.raw.state()
    for raw in (core.raw, stock):
        raw.take(batch_of(4))
    assert not differing(core.raw.state(), stock.state())
    assert core.rollback.trusted.step == 4
    before = core.raw.state()
    core.raw.take(nan_batch())
    assert core.kinds() == [Kind.BAD_BATCH]
    assert not differing(core.raw.state(), before)
    core.rollback.roll_back(6)
    assert not differing(core.raw.state(), start), "to the layers of now"


@pytest.mark.parametrize("frozen_first", [True, False])
def test_layers_that_are_frozen_or_thawed_in_training_are_guarded(tmp_path, frozen_first):
    def freeze(raw: Tiny, frozen: bool) -> None:
        raw.model.conv.requires_grad_(not frozen)

    core, stock = Core(tmp_path), Tiny(tmp_path)
    stock.begin_epoch()
    for raw in (core.raw, stock):
        freeze(raw, frozen_first)
        for seed in range(4):
            raw.take(batch_of(seed))
        second_epoch(raw, lambda trainer: freeze(trainer, not frozen_first))
        for seed in range(4, 8):
            raw.take(batch_of(seed))
    assert not differing(core.raw.state(), stock.state())
    assert core.incidents() == []
    before = core.raw.state()
    core.raw.take(nan_batch())
    assert core.kinds() == [Kind.BAD_BATCH]
    assert not differing(core.raw.state(), before)


def test_an_infinite_buffer_that_a_callback_adds_is_meant_to_be(tmp_path):
    core = Core(tmp_path)
    core.raw.model.register_buffer("mask", torch.full((2,), -torch.inf), persistent=False)
    core.train(3)
    assert core.incidents() == []
    assert core.raw.model.mask.isneginf().all()


def test_a_model_that_stays_as_it_is_keeps_its_snapshots(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    parts, trusted = core.step.savepoint.buffers, core.rollback.trusted
    second_epoch(core.raw, lambda _: None)
    core.train(1, start=4)
    assert core.step.savepoint.buffers is parts
    assert core.rollback.trusted is trusted


def test_a_buffer_that_comes_later_does_not_cost_the_snapshots(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    trusted = core.rollback.trusted
    second_epoch(core.raw, lambda raw: raw.model.register_buffer("weight", torch.ones(2), persistent=False))
    core.raw.backward(batch_of(4))
    core.raw.model.weight.fill_(torch.nan)
    core.raw.optimizer_step()
    assert core.rollback.trusted is trusted
    assert core.kinds() == [Kind.POISONED]
    assert core.raw.model.weight.tolist() == [1.0, 1.0]
