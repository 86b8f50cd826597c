"""Adaptive gradient clipping: units, zero weights, the head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.clipping.measured import STAGES, clipper, measure, norm64
from yolo_gradsafe.config_errors import ConfigError

SHAPES = {"a.weight": (6, 3, 3, 3), "b.weight": (6, 3, 3, 3), "c.weight": (6,), "d.weight": (4, 5), "e": ()}
OPTIONS = {"clip_factor": 0.05, "eps": 1e-3, "exclude": []}


def timm(weight, grad, factor=0.05, eps=1e-3):
    """Reference: timm's ``adaptive_clip_grad``."""

    def norm(x):
        return x.norm() if x.ndim <= 1 else x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))

    limit = norm(weight).clamp(min=eps) * factor
    return torch.where(norm(grad) < limit, grad, grad * (limit / norm(grad).clamp(min=1e-6)))


@pytest.fixture
def case():
    torch.manual_seed(3)
    weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    grads = {name: torch.randn(shape) * torch.rand(()) * 0.2 for name, shape in SHAPES.items()}
    weights["a.weight"][2] = 0
    return weights, grads


def test_formula_for_each_unit(case):
    weights, grads = case
    gradients, observation = measure(grads, weights)
    clip = clipper(mode="agc", agc=OPTIONS).clip_(gradients, observation)
    for name, tensor in zip(gradients.names, gradients.tensors, strict=True):
        torch.testing.assert_close(tensor, timm(weights[name], grads[name]))
    assert clip.scale == pytest.approx(norm64(gradients.tensors) / norm64(list(grads.values())), rel=1e-5)
    assert 0 < clip.scale < 1


def test_small_units_are_untouched_to_the_bit(case):
    weights, grads = case
    weights["a.weight"][2] = 1
    grads = {name: grad * 1e-4 for name, grad in grads.items()}
    gradients, observation = measure(grads, weights)
    clip = clipper(mode="agc", agc=OPTIONS).clip_(gradients, observation)
    assert clip.scale == 1.0
    assert all(torch.equal(t, g) for t, g in zip(gradients.tensors, grads.values(), strict=True))


def test_layout_in_memory_does_not_matter(case):
    weights, grads = case
    twin = {name: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in grads.items()}
    ours, theirs = measure(grads, weights), measure(twin, weights)
    for gradients, observation in (ours, theirs):
        clipper(mode="agc", agc=OPTIONS).clip_(gradients, observation)
    for left, right in zip(ours[0].tensors, theirs[0].tensors, strict=True):
        torch.testing.assert_close(left, right)


def test_zero_initialised_parameters_train():
    weight = nn.Parameter(torch.zeros(3, 4))
    rule = clipper(mode="agc", agc={"exclude": []})
    target = torch.ones(3, 4)
    for _ in range(200):
        loss = (weight - target).square().sum()
        (grad,) = torch.autograd.grad(loss, weight)
        gradients, observation = measure({"w": grad}, {"w": weight.detach()})
        rule.clip_(gradients, observation)
        with torch.no_grad():
            weight -= gradients.tensors[0]
    assert float(weight.norm(dim=1).min()) > 1e-3


def test_the_head_is_excluded_by_default():
    grads = {name: torch.full((2, 2), 5.0) for name in STAGES}
    gradients, observation = measure(grads)
    clipper(STAGES, mode="agc").clip_(gradients, observation)
    assert [float(tensor.max()) < 5 for tensor in gradients.tensors] == [True, True, False, False]


def test_exclude_takes_globs_and_stages():
    grads = {name: torch.full((2, 2), 5.0) for name in STAGES}
    gradients, observation = measure(grads)
    clipper(STAGES, mode="agc", agc={"exclude": ["a.*", "head.class"]}).clip_(gradients, observation)
    assert [float(tensor.max()) < 5 for tensor in gradients.tensors] == [False, True, True, False]


def test_an_exclusion_that_excludes_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"clip.agc.exclude: 'haed' matches no stage.*Did you mean 'head'"):
        clipper(STAGES, mode="agc", agc={"exclude": ["haed"]})


def test_overflown_norms_are_clipped_by_their_true_value():
    grads = {"a": torch.full((2, 3), 1e30), "b": torch.full((3,), 1e-3), "c": torch.full((2, 2), 3e38)}
    gradients, observation = measure(grads)
    clip = clipper(mode="agc", agc=OPTIONS).clip_(gradients, observation)
    for tensor in (gradients.tensors[0], gradients.tensors[2]):
        limit = 0.05 * math.sqrt(tensor.shape[1])
        assert [float(unit.norm()) for unit in tensor] == pytest.approx([limit] * 2, rel=1e-5)
    assert gradients.tensors[1].tolist() == pytest.approx([1e-3] * 3, rel=1e-5)
    assert 0 < clip.scale < 1e-30


def test_a_unit_beside_an_overflown_one_is_clipped_by_its_own_norm():
    grads = {"a": torch.tensor([[1e30, 1e30], [3.0, 4.0], [3e-4, 4e-4]])}
    gradients, observation = measure(grads)
    clipper(mode="agc", agc=OPTIONS).clip_(gradients, observation)
    limit = 0.05 * math.sqrt(2)
    assert [float(unit.norm()) for unit in gradients.tensors[0]] == pytest.approx([limit, limit, 5e-4], rel=1e-5)
    assert torch.equal(gradients.tensors[0][2], grads["a"][2])


def test_tensors_of_one_size_with_other_units_are_told_apart():
    torch.manual_seed(5)
    grads = {"a": torch.randn(2, 3, 2), "b": torch.randn(4, 3, 1), "c": torch.randn(12), "d": torch.randn(3, 4)}
    gradients, observation = measure(grads)
    clipper(mode="agc", agc=OPTIONS).clip_(gradients, observation)
    for (name, grad), tensor in zip(grads.items(), gradients.tensors, strict=True):
        torch.testing.assert_close(tensor, timm(torch.ones_like(grad), grad), msg=name)
