"""Planted faults of initialisation are told apart from health, without a trainer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.probe.toys import loss_of, plain
from yolo_gradsafe.probe.init import chain_gain, measure_init, verdict
from yolo_gradsafe.probe.layers import leaves, stages
from yolo_gradsafe.probe.units import channels_dead, weight_scales

FINE = (1.2, 20.0)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (plain(nn.ReLU), "healthy"),
        (plain(nn.SiLU, norm=True), "healthy"),
        (plain(nn.ReLU, gain=10), "exploding"),
        (plain(nn.ReLU, gain=1e8), "exploding"),
        (plain(nn.SiLU, gain=10, norm=True), "exploding"),
        (plain(nn.Sigmoid), "vanishing"),
        (plain(nn.ReLU, gain=0.1), "vanishing"),
        (plain(nn.ReLU, gain=0.0), "vanishing"),
    ],
    ids=["he", "normalised", "x10", "overflow", "x10 normalised", "sigmoid", "small", "zero"],
)
def test_planted_models_are_told_apart(model, expected):
    found = measure_init(model, loss_of(model))
    assert found.verdict == expected, found.reason


def test_it_leaves_neither_hooks_nor_gradients():
    model = plain(nn.ReLU)
    measure_init(model, loss_of(model))
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_gradients_are_those_of_the_loss():
    model = plain(nn.ReLU, depth=3)
    found = measure_init(model, loss_of(model))
    loss, _ = loss_of(model)()
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert float(found.gradient_norm) == pytest.approx(norm, rel=1e-5)
    assert float(found.layers[0].gradient) == pytest.approx(
        math.hypot(float(model[0].weight.grad.norm()), float(model[0].bias.grad.norm())), rel=1e-5
    )
    assert float(found.loss) == pytest.approx(float(loss) / 4)


def test_gain_of_a_chain():
    assert chain_gain([1.0, 2.0, 4.0, 8.0]) == pytest.approx((2.0, 8.0))
    assert chain_gain([1.0, 2.0]) is None
    assert chain_gain([1.0, 0.5, 0.0]) == (0.0, 0.0)
    assert all(map(math.isnan, chain_gain([1.0, math.inf, 2.0])))


@pytest.mark.parametrize(
    ("gradient", "activation", "weights", "expected"),
    [
        (FINE, FINE, 0.4, "healthy"),
        (None, None, None, "healthy"),
        ((2.1, 99.0), FINE, 0.4, "healthy"),
        ((2.1, 101.0), FINE, 0.4, "exploding"),
        ((1.5, 2e4), FINE, 0.4, "exploding"),
        (FINE, (2.1, 101.0), 0.4, "exploding"),
        (FINE, (0.4, 0.001), 0.4, "vanishing"),
        ((0.8, 1e-5), FINE, 0.4, "vanishing"),
        (FINE, FINE, 3.1, "exploding"),
    ],
)
def test_thresholds(gradient, activation, weights, expected):
    assert verdict(1.0, 1.0, gradient, activation, weights)[0] == expected


def test_what_is_not_finite_explodes():
    assert verdict(math.nan, 1.0, FINE, FINE, 0.4)[0] == "exploding"
    assert verdict(1.0, math.inf, None, None, None)[0] == "exploding"


def test_scale_of_the_weights():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(64, 32, 3),
            "grouped": nn.Conv2d(64, 64, 3, groups=64),
            "up": nn.ConvTranspose2d(64, 32, 2),
            "linear": nn.Linear(256, 128),
        }
    )
    scales = {scale.name: scale for scale in weight_scales(model)}
    assert (scales["conv"].fan_in, scales["conv"].fan_out) == (576, 288)
    assert (scales["grouped"].fan_in, scales["grouped"].fan_out) == (9, 9)
    assert (scales["linear"].fan_in, scales["linear"].fan_out) == (256, 128)
    assert (scales["up"].fan_in, scales["up"].fan_out) == (256, 128)
    # PyTorch draws from a uniform distribution of variance 1 / (3 fan_in).
    for name in ("conv", "linear"):
        assert float(scales[name].he) == pytest.approx(1 / math.sqrt(6), rel=0.02)
    nn.init.xavier_normal_(model["conv"].weight)
    [xavier] = [scale for scale in weight_scales(model) if scale.name == "conv"]
    assert float(xavier.xavier) == pytest.approx(1, rel=0.02)


def test_dead_activations_are_named():
    model = plain(nn.ReLU, depth=3)
    with torch.no_grad():
        model[2].bias[:8] = -1e6
    found = measure_init(model, loss_of(model))
    assert [(dead.name, dead.share) for dead in found.dead] == [("3", 0.5)]
    assert found.dead_share == pytest.approx(8 / 48)
    saturated = torch.cat([torch.full((2, 1, 4, 4), 0.9999), torch.full((2, 1, 4, 4), 0.5)], dim=1)
    assert channels_dead(saturated, (0.0, 1.0)) == (1, 2)
    assert channels_dead(torch.zeros(5, 3), (0.0,)) == (3, 3)


def test_convolutions_without_normalisation_are_listed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU())
    found = measure_init(model, loss_of(model))
    assert [layer.name for layer in found.unnormalised] == ["3"]


def test_a_module_used_twice_is_no_leaf():
    shared = nn.SiLU()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.Conv2d(3, 3, 1), shared)
    assert list(leaves(model)) == ["0", "2"]
    assert [stage.name for stage in stages(plain(nn.ReLU, 2))] == ["0", "1", "2", "3"]
