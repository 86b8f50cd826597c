"""Headroom against fp16 and bf16, and underflow counted as by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.probe.toys import loss_of, plain
from yolo_gradsafe.probe.headroom import SCALES, Extremes, judge_headroom, measure_extremes


def scaled(largest: float) -> Extremes:
    return Extremes("model.0", activation=largest, gradient=1.0, nonzero=10)


@pytest.mark.parametrize(
    ("largest", "fp16", "bf16"),
    [
        (100.0, "safe", "safe"),
        (8188.0, "safe", "safe"),
        (8189.0, "tight", "safe"),
        (65504.0, "tight", "safe"),
        (65505.0, "unsafe", "safe"),
        (1e38, "unsafe", "tight"),
        (math.inf, "unsafe", "unsafe"),
    ],
)
def test_verdicts(largest, fp16, bf16):
    found = judge_headroom({"small": scaled(1.0), "large": scaled(largest)})
    assert (found.fp16, found.bf16) == (fp16, bf16)
    assert found.activation_layer == "large"
    assert "large" in found.reason


def test_the_loss_scale_that_fits():
    found = judge_headroom({"a": Extremes("", activation=1.0, gradient=100.0, nonzero=1)})
    assert (found.loss_scale, found.scale_search) == (512.0, 7)
    assert judge_headroom({"a": Extremes("", 1.0, 1e-3, 1)}).scale_search == 0
    assert judge_headroom({"a": Extremes("", 1.0, 1e6, 1)}).fp16 == "unsafe"
    assert judge_headroom({"a": Extremes("", 1.0, math.inf, 1)}).fp16 == "unsafe"


def test_gradients_that_underflow_are_counted():
    model = plain(nn.ReLU, depth=4)
    scale = 2e-6
    found = measure_extremes(model, loss_of(model, scale=scale))
    seen = {}

    def watch(module, inputs, output) -> None:
        output.register_hook(lambda g: seen.update(g=g))

    model[2].register_forward_hook(watch)
    loss_of(model, scale=scale)()[0].backward()
    gradient = seen["g"].abs()[seen["g"] != 0]
    assert found["2"].nonzero == len(gradient)
    expected = [int((gradient.double() * s < 2.0**-14).sum()) for s in SCALES]
    assert found["2"].small == expected
    assert 0 < expected[0] < len(gradient), "the toy shows nothing"
    assert found["2"].gradient == float(gradient.max())


def test_several_passes_add_up():
    model = plain(nn.ReLU, depth=3)
    once = measure_extremes(model, loss_of(model))
    count, largest = once["0"].nonzero, once["0"].activation
    again = measure_extremes(model, loss_of(model, scale=1.0), once)
    assert (again["0"].nonzero, again["0"].activation) == (2 * count, largest)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_what_is_not_a_number_is_too_large():
    model = nn.Sequential(nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    found = judge_headroom(measure_extremes(model, lambda: (model(torch.ones(1, 3)).sum(), 1)))
    assert (found.fp16, found.bf16) == ("unsafe", "unsafe")
