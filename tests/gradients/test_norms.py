"""The meter, against torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_gradsafe.gradients.norms import GradientMeter, clip_by_norm_, scaled_norm


def model_with_grads(scale: float = 1.0, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * scale
    return model


def meter(model: nn.Module) -> GradientMeter:
    return GradientMeter(model.named_parameters())


class HostReads(TorchDispatchMode):
    """Counts operations that copy a tensor's value to the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_total_equals_torchs_to_the_bit():
    model = model_with_grads()
    gradients, reading = meter(model).measure([])
    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
    assert torch.equal(gradients.total, expected)
    assert reading.norm == float(expected)
    assert reading.tensor_norms == [float(p.grad.norm()) for p in model.parameters()]


def test_clipping_equals_torchs_to_the_bit():
    ours, torchs = model_with_grads(), model_with_grads()
    gradients, reading = meter(ours).measure([])
    scale = clip_by_norm_(gradients, reading.norm, 1.0)
    torch.nn.utils.clip_grad_norm_(torchs.parameters(), 1.0)
    assert scale == pytest.approx(1.0 / reading.norm, rel=1e-6)
    for a, b in zip(ours.parameters(), torchs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_small_gradients_are_not_touched():
    model = model_with_grads(1e-3)
    before = [p.grad.clone() for p in model.parameters()]
    gradients, reading = meter(model).measure([])
    assert clip_by_norm_(gradients, reading.norm, 10.0) == 1.0
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), before, strict=True))


def test_scalars_ride_along_and_the_scale_is_divided_out():
    model = model_with_grads()
    _, unscaled = meter(model).measure([])
    for parameter in model.parameters():
        parameter.grad *= 1024
    _, reading = meter(model).measure([torch.tensor([1.0, 2.0]), torch.tensor(3.0)], grad_scale=torch.tensor(1024.0))
    assert (reading.scalars, reading.sample) == ([1.0, 2.0, 3.0], None)
    assert reading.norm == pytest.approx(unscaled.norm, rel=1e-6)


def test_a_sample_rides_along_behind_them():
    sample = torch.tensor([4.0, 5.0], dtype=torch.bfloat16)
    _, reading = meter(model_with_grads()).measure([torch.tensor(3.0)], sample=sample)
    assert (reading.scalars, reading.sample.tolist()) == ([3.0], [4.0, 5.0])


def test_one_read_and_no_scalar_read():
    model = model_with_grads()
    with HostReads() as reads:
        gradients, reading = meter(model).measure([torch.ones(3)])
        clip_by_norm_(gradients, reading.norm, 1.0)
    assert reads.count == 0, "everything comes from one copy"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_element_is_seen_where_it_is(bad):
    model = model_with_grads()
    model[2].weight.grad[0, 0] = bad
    gradients, reading = meter(model).measure([])
    assert not math.isfinite(reading.norm)
    finite = {n: math.isfinite(v) for n, v in zip(gradients.names, reading.tensor_norms, strict=True)}
    assert [name for name, ok in finite.items() if not ok] == ["2.weight"]


def test_parameters_without_a_gradient_are_left_out():
    model = model_with_grads()
    model[0].weight.grad = None
    gradients, _ = meter(model).measure([])
    assert "0.weight" not in gradients.names
    assert len(gradients.names) == len(gradients.tensors) == 5
    nothing, reading = GradientMeter([]).measure([torch.tensor(2.0)])
    assert (nothing.tensors, reading.norm, reading.scalars) == ([], 0.0, [2.0])


def test_a_norm_that_overflows_is_computed_and_clipped_right():
    model = model_with_grads(1e25)
    exact = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()))
    directions = [(p.grad.double() / exact) for p in model.parameters()]
    gradients, reading = meter(model).measure([])
    assert math.isinf(reading.norm)
    peak, relative = scaled_norm(gradients.tensors)
    assert peak * relative == pytest.approx(exact, rel=1e-5)
    clip_by_norm_(gradients, peak * relative, 10.0)
    for parameter, direction in zip(model.parameters(), directions, strict=True):
        torch.testing.assert_close(parameter.grad.double() / 10.0, direction, rtol=1e-4, atol=1e-7)


def test_stock_zeroes_such_gradients():
    model = model_with_grads(1e25)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    assert all(not p.grad.any() for p in model.parameters())


def test_subset_has_its_own_total():
    gradients, _ = meter(model_with_grads()).measure([])
    part = gradients.subset([0, 2])
    assert part.names == [gradients.names[0], gradients.names[2]]
    assert float(part.total) == pytest.approx(math.hypot(*(float(gradients.norms[i]) for i in (0, 2))), rel=1e-6)
