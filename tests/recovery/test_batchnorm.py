"""Batch-norm statistics are put back in place, to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from yolo_gradsafe.recovery.batchnorm import BatchNormShadow


def test_a_nan_forward_pass_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model(torch.randn(2, 3, 4, 4))
    shadow = BatchNormShadow(list(model.buffers()))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    places = {name: buffer.data_ptr() for name, buffer in model.named_buffers()}

    model(torch.full((2, 3, 4, 4), math.nan))
    assert model[1].running_var.isnan().any(), "the fault did not fire"
    shadow.restore()

    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
        assert buffer.data_ptr() == places[name], "restored in place: the EMA holds references"


def test_keep_takes_over_what_is_live():
    norm = nn.BatchNorm2d(2)
    shadow = BatchNormShadow(list(norm.buffers()))
    norm(torch.randn(4, 2, 3, 3))
    shadow.look()
    shadow.keep()
    good = norm.running_mean.clone()
    norm(torch.randn(4, 2, 3, 3))
    shadow.restore()
    assert torch.equal(norm.running_mean, good)
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_a_look_tells_whether_all_are_finite(buffer):
    norms = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(4))
    shadow = BatchNormShadow(list(norms.buffers()))
    assert shadow.look().isfinite()
    getattr(norms[1], buffer)[3] = math.nan
    assert not shadow.look().isfinite()
    assert not shadow.finite()


def test_a_look_that_is_not_kept_changes_nothing():
    norm = nn.BatchNorm2d(2)
    shadow = BatchNormShadow(list(norm.buffers()))
    for _ in range(3):
        norm(torch.randn(4, 2, 3, 3))
        shadow.look()
    shadow.restore()
    assert int(norm.num_batches_tracked) == 0
    assert not norm.running_mean.any()


def test_a_model_without_buffers_needs_nothing():
    shadow = BatchNormShadow([])
    assert shadow.look().isfinite()
    shadow.keep()
    shadow.restore()
