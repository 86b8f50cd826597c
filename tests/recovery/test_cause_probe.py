"""What a batch would do under other weights, or in another precision; and that asking leaves no trace."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from yolo_gradsafe.recovery.cause_probe import CauseProbe

from tests.fake_trainer import Core, TwoRanks, batch_of, differing, nan_batch
from yolo_gradsafe.telemetry.schema import Cause


def nan_target():
    batch = batch_of(0)
    batch["target"][0] = math.nan
    return batch


def prepared(core: Core, cause: Cause) -> dict:
    """Put the trainer into a state, and return a batch, of which the cause is known."""
    core.train(4)
    if cause is Cause.WEIGHTS:
        core.raw.model.head.weight.data.fill_(1e30)
    if cause is Cause.PRECISION:
        core.trainer._trained_in = "fp16"
        return batch_of(0, spread=1e6)  # fp16 ends at 65504
    return nan_target() if cause is Cause.DATA else batch_of(0)


@pytest.mark.parametrize("cause", [Cause.TRANSIENT, Cause.PRECISION, Cause.WEIGHTS, Cause.DATA])
def test_each_cause_is_told_from_the_others_and_leaves_no_trace(tmp_path, cause):
    core = Core(tmp_path)
    batch = prepared(core, cause)
    for parameter in core.raw.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, kept = core.raw.state(), [(p.grad, p.grad.clone()) for p in core.raw.model.parameters()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert CauseProbe(core.trainer).cause(batch, core.rollback.trusted, math.nan) is cause
    assert not differing(core.raw.state(), before)
    for parameter, (gradient, copy) in zip(core.raw.model.parameters(), kept, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, copy)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_pixel_that_is_not_finite_settles_it(tmp_path):
    core = Core(tmp_path)
    core.trainer._trained_in = "fp16"
    core.raw.model.head.weight.data.fill_(1e30)
    assert CauseProbe(core.trainer).cause(nan_batch(), core.rollback.trusted, math.nan) is Cause.DATA


def test_a_fault_of_another_ranks_is_the_same_for_all(tmp_path):
    core = Core(tmp_path)
    core.among(TwoRanks([1.0]))
    assert CauseProbe(core.trainer).cause(batch_of(0), core.rollback.trusted, math.nan) is Cause.DATA


@pytest.mark.parametrize(("times", "better"), [(1.0, False), (20.0, True)])
def test_trusted_weights_are_compared_on_the_same_batch(tmp_path, times, better):
    core = Core(tmp_path)
    core.train(4)
    core.raw.model.head.weight.data *= times
    before = core.raw.state()
    assert CauseProbe(core.trainer).trusted_do_better(batch_of(0), core.rollback.trusted) is better
    assert not differing(core.raw.state(), before)


def test_weights_are_put_back_also_when_the_pass_fails(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    before = core.raw.state()
    with pytest.raises(KeyError):
        CauseProbe(core.trainer).loss({}, "fp32", core.rollback.trusted)
    assert not differing(core.raw.state(), before)
