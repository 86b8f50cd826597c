"""How far a step moves the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
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


def sampler(model: nn.Module, every: int = 1) -> UpdateRatioSampler:
    named = list(model.named_parameters())
    return UpdateRatioSampler(named, LayerGroups([name for name, _ in named], Layout(0, 0)), every)


def read(probe: UpdateRatioSampler, step: int = 1) -> tuple[float, np.ndarray | None]:
    sample = probe.sample(step)
    return probe.read(None if sample is None else sample.numpy())


def unknown(found: tuple[float, np.ndarray | None]) -> bool:
    return math.isnan(found[0]) and found[1] is None


@contextmanager
def sampling(probe: UpdateRatioSampler, step: int, taken: bool = True, rate: float = 1.0) -> Iterator[None]:
    read(probe, step)
    yield
    probe.note_step(taken, rate)


def move(model: nn.Module, times: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(times)


# Each layer ----------------------------------------------------------------------------------------------------------


def test_a_known_change_is_found(model):
    probe = sampler(model)
    with sampling(probe, 1):
        move(model[0], 1.01)
    np.testing.assert_allclose(read(probe)[1], [0.01, 0.0], rtol=1e-3)


def test_the_sample_stands_for_all_elements(model):
    probe = sampler(model)
    before = torch.cat([p.detach().flatten() for p in model[0].parameters()])
    with sampling(probe, 1), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    ratio = read(probe)[1][0]
    after = torch.cat([p.detach().flatten() for p in model[0].parameters()])
    assert ratio == pytest.approx(float((after - before).norm() / before.norm()), rel=0.3)


def test_weights_that_are_zero_have_no_ratio(model):
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    probe = sampler(model)
    with sampling(probe, 1):
        pass
    assert np.isnan(read(probe)[1][1])


def sampled(probe: UpdateRatioSampler, steps: range) -> list[int]:
    found = []
    for step in steps:
        if read(probe, step)[1] is not None:
            found.append(step - 1)
        probe.note_step(taken=True)
    return found


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [*range(1, 9)]), (4, [4, 8]), (9, [])])
def test_one_step_in_so_many_is_sampled_in_full(model, every, steps):
    assert sampled(sampler(model, every), range(1, 10)) == steps


def test_all_tensors_are_read_before_and_after_such_a_step_alone():
    probe = sampler(deep(), every=4)
    sizes = []
    for step in range(1, 9):
        sizes.append(len(probe.sample(step)))
        probe.note_step(taken=True)
    few, all_of_them = 9 * 64, 9 * (64 + 4)
    assert sizes == [few, few, few, few + all_of_them, few + all_of_them, few, few, few + all_of_them]


# All matrices, each step ---------------------------------------------------------------------------------------------


def deep() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(9)))


def test_the_median_of_the_matrices_is_known_of_every_step():
    model = deep()
    probe = sampler(model, every=0)
    with sampling(probe, 1, rate=0.5):
        for number, layer in enumerate(model):
            move(layer, 1 + number / 100)
    ratio, layers = read(probe)
    assert layers is None
    assert ratio == pytest.approx(0.04, rel=1e-3), "of the eight that moved, the lower middle one"
    assert probe.rate == 0.5


def test_what_is_frozen_does_not_count():
    model = deep()
    probe = sampler(model, every=0)
    with sampling(probe, 1):
        move(model[8], 1.5)
    assert read(probe)[0] == pytest.approx(0.5, rel=1e-3)
    with sampling(probe, 2):
        pass
    assert math.isnan(read(probe)[0]), "nothing moved: the rate was 0, or GradScaler skipped the step"


def test_a_model_of_a_few_matrices_has_no_median(model):
    probe = sampler(model)
    with sampling(probe, 1):
        move(model, 3.0)
    assert math.isnan(read(probe)[0])


def test_a_step_that_is_not_taken_is_not_sampled():
    probe = sampler(deep())
    with sampling(probe, 1, taken=False):
        pass
    assert unknown(read(probe))


def test_what_somebody_else_has_changed_since_is_not_the_steps():
    model = deep()
    probe = sampler(model)
    with sampling(probe, 1):
        move(model, 1.01)
    move(model, 1.5)
    assert unknown(read(probe))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_left_out_of_the_median(bad):
    model = deep()
    probe = sampler(model)
    nn.init.constant_(model[8].weight, bad)
    with sampling(probe, 1):
        move(model, 1.1)
    assert read(probe)[0] == pytest.approx(0.1, rel=1e-3)


def test_a_rate_of_zero_is_no_division_by_zero():
    model = deep()
    probe = sampler(model)
    with sampling(probe, 1, rate=0.0):
        move(model, 1.1)
    assert math.isfinite(read(probe)[0] / probe.rate)
