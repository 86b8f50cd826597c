"""Batch-norm statistics follow faster for a time, and are left as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolo_gradsafe.recovery.batchnorm_momentum import BatchNormMomentum


def model() -> nn.Sequential:
    """Return layers as Ultralytics has them, one as PyTorch has them, one faster, and one that averages over all."""
    momenta = (0.03, 0.1, 0.5, None)
    return nn.Sequential(*(nn.BatchNorm2d(2, momentum=momentum) for momentum in momenta), nn.GroupNorm(1, 2))


def momenta(layers: nn.Sequential) -> list[float | None]:
    return [layer.momentum for layer in layers if isinstance(layer, nn.BatchNorm2d)]


def test_slow_layers_take_pytorchs_default_and_get_their_own_back():
    layers = model()
    own = BatchNormMomentum(layers)
    assert own.slow
    assert (own.raise_momentum(), own.raised, own.slow) == (True, True, False)
    assert momenta(layers) == [0.1, 0.1, 0.5, None]
    assert own.raise_momentum() is False, "it is raised"
    own.restore()
    own.restore()
    assert (momenta(layers), own.raised) == ([0.03, 0.1, 0.5, None], False)
    assert own.raise_momentum() is True


def test_a_model_without_slow_layers_has_nothing_to_raise():
    own = BatchNormMomentum(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    assert (own.slow, own.raise_momentum(), own.raised) == (False, False, False)


def test_the_averaged_model_keeps_its_own():
    layers = model()
    averaged = copy.deepcopy(layers)
    BatchNormMomentum(layers).raise_momentum()
    assert momenta(averaged) == [0.03, 0.1, 0.5, None]


def test_an_averaged_model_that_was_made_meanwhile_gets_its_own_back_as_well():
    layers = model()
    averaged: list[nn.Sequential | None] = [None]
    own = BatchNormMomentum(layers, lambda: averaged[0])
    own.raise_momentum()
    own.restore_averaged()
    averaged[0] = copy.deepcopy(layers)
    own.restore_averaged()
    assert (momenta(averaged[0]), own.raised) == ([0.03, 0.1, 0.5, None], True)
    averaged[0] = copy.deepcopy(layers)
    own.restore()
    assert momenta(averaged[0]) == momenta(layers) == [0.03, 0.1, 0.5, None]


def test_an_averaged_model_of_other_layers_is_left_alone():
    layers, averaged = model(), nn.Sequential(nn.Identity(), nn.BatchNorm2d(2, momentum=0.2))
    own = BatchNormMomentum(layers, lambda: averaged)
    own.raise_momentum()
    own.restore()
    assert momenta(averaged) == [0.2]


def test_statistics_of_weights_that_have_moved_are_there_in_a_third_of_the_batches():
    layer = nn.Sequential(nn.BatchNorm2d(1, momentum=0.03))
    fast = copy.deepcopy(layer)
    BatchNormMomentum(fast).raise_momentum()
    batch = torch.full((4, 1, 2, 2), 8.0)
    for _ in range(20):
        layer(batch), fast(batch)
    assert float(layer[0].running_mean) == pytest.approx(8 * (1 - 0.97**20))
    assert float(fast[0].running_mean) == pytest.approx(8 * (1 - 0.9**20))
