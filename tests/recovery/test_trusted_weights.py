"""What weights that were good not long ago would do with a batch; and that asking leaves no trace."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fake_trainer import Core, TwoRanks, batch_of, differing
from yolo_gradsafe.adapter.replay import ReplayResult
from yolo_gradsafe.recovery.trusted_weights import in_place, trusted_do_better


@pytest.fixture
def core(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    return core


def test_a_snapshot_stands_in_for_the_length_of_the_body(tmp_path):
    core = Core(tmp_path)
    core.train(2)
    then = core.raw.model.conv.weight.clone()
    core.train(2, start=2)
    live, before = core.raw.model.conv.weight, core.raw.state()
    with in_place(core.trainer, core.rollback.trusted):
        assert torch.equal(live, then)
    assert core.raw.model.conv.weight is live, "the same tensor, with its old values"
    assert not differing(core.raw.state(), before)


def test_weights_are_put_back_also_when_the_body_fails(core):
    before = core.raw.state()
    with pytest.raises(KeyError), in_place(core.trainer, core.rollback.trusted):
        raise KeyError("planted")
    assert not differing(core.raw.state(), before)


def test_weights_that_are_not_finite_are_put_back_as_they_were(core):
    core.raw.model.conv.bias.data[0] = torch.nan
    with in_place(core.trainer, core.rollback.trusted):
        assert core.raw.model.conv.bias.isfinite().all()
    assert core.raw.model.conv.bias.isnan().tolist() == [True, False]


@pytest.mark.parametrize(("times", "better"), [(1.0, False), (20.0, True), (float("nan"), True)])
def test_trusted_weights_are_compared_on_the_same_batch_and_leave_no_trace(core, times, better):
    core.raw.model.head.weight.data *= times
    for parameter in core.raw.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, kept = core.raw.state(), [(p.grad, p.grad.clone()) for p in core.raw.model.parameters()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert trusted_do_better(core.trainer, batch_of(0), core.rollback.trusted) is better
    after = core.raw.state()
    assert not differing({k: v.nan_to_num() for k, v in after.items()}, {k: v.nan_to_num() for k, v in before.items()})
    for parameter, (gradient, copy) in zip(core.raw.model.parameters(), kept, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, copy)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_weights_that_fail_themselves_do_no_better(core):
    batch = batch_of(0)
    batch["target"][0] = torch.nan
    core.raw.model.head.weight.data *= 20
    assert not trusted_do_better(core.trainer, batch, core.rollback.trusted)


def test_untrained_weights_which_match_no_object_do_no_better(core, monkeypatch):
    """Their loss is almost 0, because it is divided by no less than 1; training from there makes it rise at first."""
    untrained, live = (ReplayResult(1.2, {}, matched=0.02), ReplayResult(40.0, {}))
    results = iter([live, untrained, live, replace(untrained, matched=1.0)])
    monkeypatch.setattr("yolo_gradsafe.recovery.trusted_weights.run_fitting", lambda *_, **__: next(results))
    assert not trusted_do_better(core.trainer, batch_of(0), core.rollback.trusted)
    assert trusted_do_better(core.trainer, batch_of(0), core.rollback.trusted), "had they matched the objects"


def test_without_memory_for_it_the_answer_is_no(core, monkeypatch):
    core.raw.model.head.weight.data *= 20
    before = core.raw.state()

    def fails(*_):
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr("yolo_gradsafe.adapter.replay.Replay.run", fails)
    assert not trusted_do_better(core.trainer, batch_of(0), core.rollback.trusted)
    assert not differing(core.raw.state(), before)


@pytest.mark.parametrize(
    ("theirs", "better"),
    [
        ([0.0, 0.0, 0.0], True),
        ([0.0, 0.0, 1e9], False),  # the older weights are bad on the other's batch
        ([1.0, 0.0, 0.0], False),  # the other has no memory for it
    ],
)
def test_the_ranks_answer_alike_by_the_worst_loss_of_all(core, theirs, better):
    core.raw.model.head.weight.data *= 20
    core.among(TwoRanks(theirs))
    assert trusted_do_better(core.trainer, batch_of(0), core.rollback.trusted) is better
