"""How far a step moves the weights."""

from __future__ import annotations

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


def sampler(model: nn.Module) -> UpdateRatioSampler:
    named = list(model.named_parameters())
    return UpdateRatioSampler(named, LayerGroups([name for name, _ in named], Layout(0, 0)))


def ratios(probe: UpdateRatioSampler) -> np.ndarray:
    probe.after()
    (waiting,) = probe.take()
    assert not probe.take(), "a sample is read once"
    return probe.ratios(waiting.tolist())


def test_a_known_change_is_found(model):
    probe = sampler(model)
    probe.before()
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(1.01)
    np.testing.assert_allclose(ratios(probe), [0.01, 0.0], rtol=1e-3)


def test_the_sample_stands_for_all_elements(model):
    probe = sampler(model)
    before = torch.cat([p.detach().flatten() for p in model[0].parameters()])
    probe.before()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    ratio = ratios(probe)[0]
    after = torch.cat([p.detach().flatten() for p in model[0].parameters()])
    assert ratio == pytest.approx(float((after - before).norm() / before.norm()), rel=0.3)


def test_weights_that_are_zero_have_no_ratio(model):
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    probe = sampler(model)
    probe.before()
    assert np.isnan(ratios(probe)[1])


def test_one_step_in_so_many_is_sampled(model):
    named = list(model.named_parameters())
    grouping = LayerGroups([name for name, _ in named], Layout(0, 0))
    assert [step for step in range(1, 10) if UpdateRatioSampler(named, grouping, every=4).due(step)] == [4, 8]
    assert not any(UpdateRatioSampler(named, grouping, every=0).due(step) for step in range(10))
