"""How far a step moves the weights."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from yolo_gradsafe.gradients.layer_groups import LayerGroups, Layout
from yolo_gradsafe.gradients.update_ratio import UpdateRatioSampler


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 4, 1).to(memory_format=torch.channels_last))


@contextmanager
def unguarded(place: str):
    yield


def sampler(model: nn.Module, every: int = 1) -> UpdateRatioSampler:
    named = list(model.named_parameters())
    return UpdateRatioSampler(named, LayerGroups([name for name, _ in named], Layout(0, 0)), every, unguarded)


def ratios(probe: UpdateRatioSampler) -> np.ndarray:
    (waiting,) = probe.take()
    assert not probe.take(), "a sample is read once"
    return probe.ratios(waiting.tolist())


def test_a_known_change_is_found(model):
    probe = sampler(model)
    with probe.sampling(1, taken=True), torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(1.01)
    np.testing.assert_allclose(ratios(probe), [0.01, 0.0], rtol=1e-3)


def test_the_sample_stands_for_all_elements(model):
    probe = sampler(model)
    before = torch.cat([p.detach().flatten() for p in model[0].parameters()])
    with probe.sampling(1, taken=True), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    ratio = ratios(probe)[0]
    after = torch.cat([p.detach().flatten() for p in model[0].parameters()])
    assert ratio == pytest.approx(float((after - before).norm() / before.norm()), rel=0.3)


def test_weights_that_are_zero_have_no_ratio(model):
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    probe = sampler(model)
    with probe.sampling(1, taken=True):
        pass
    assert np.isnan(ratios(probe)[1])


def sampled(probe: UpdateRatioSampler, step: int, taken: bool = True) -> bool:
    with probe.sampling(step, taken):
        pass
    return bool(probe.take())


def test_one_step_in_so_many_is_sampled(model):
    assert [step for step in range(1, 10) if sampled(sampler(model, every=4), step)] == [4, 8]
    assert not any(sampled(sampler(model, every=0), step) for step in range(1, 10))


def test_a_step_that_is_not_taken_is_not_sampled(model):
    assert not sampled(sampler(model), 1, taken=False)
