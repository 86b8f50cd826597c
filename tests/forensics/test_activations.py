"""The layers: who was first, how large the numbers were, and no hook left."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from yolo_gradsafe.forensics.activations import activation_hooks, bad_state, first_bad, first_bad_gradient


class Sum(nn.Module):
    """Overflows between its layers: no layer within it does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(x) * 3e38 * 10


class Exponent(nn.Module):
    """Overflows above 88."""

    def forward(self, x):
        return x.exp()


class Root(nn.Module):
    """Is finite, and its gradient is not."""

    def forward(self, x):
        return (x * 0).sqrt()


def forward_stats(model, x):
    with activation_hooks(model) as hooks:
        model(x)
    return hooks.forward_stats()


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_innermost_module_is_blamed_and_not_those_behind_or_around_it():
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), Exponent()), nn.ReLU(inplace=True))
    bad = first_bad(forward_stats(model, torch.tensor([5.0, 100.0])))
    assert (bad.name, bad.kind, bad.dtype) == ("1.1", "Exponent", "float32")
    assert bad.peak == pytest.approx(math.exp(5))


def test_what_overflows_between_layers_is_their_holders():
    assert first_bad(forward_stats(nn.Sequential(nn.Identity(), Sum()), torch.ones(2))).name == "1"


def test_an_activation_in_place_does_not_hide_that_its_input_was_bad():
    model = nn.Sequential(Exponent(), nn.Hardtanh(inplace=True), nn.Identity())
    assert first_bad(forward_stats(model, torch.tensor([100.0]))).name == "0"


def test_healthy_layers_are_all_listed_in_order():
    seen = forward_stats(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2))
    assert [s.name for s in seen] == ["0", "1", ""]
    assert first_bad(seen) is None


def test_dicts_lists_and_integers_pass():
    class Mixed(nn.Module):
        def forward(self, batch, scale=1.0):
            return {"a": [batch["img"] * scale], "n": torch.tensor(1), "none": None}

    model = nn.Sequential(Mixed(), nn.Identity())
    assert [s.name for s in forward_stats(model, {"img": torch.full((1,), 7.0), "n": torch.tensor([2])})] == [
        "0",
        "1",
        "",
    ]


def test_the_first_bad_gradient_is_named():
    model = nn.Sequential(nn.Linear(2, 2), Root(), nn.Identity())
    with activation_hooks(model) as hooks:
        loss = model(torch.ones(1, 2)).sum()
        torch.autograd.grad(loss, list(model.parameters()))
    assert first_bad_gradient(hooks.gradient_stats()).name == "1", "the gradient that came back to it is finite"
    assert hooks.gradient_stats()[-1].name == "0"


def test_a_gradient_is_blamed_on_the_one_that_passed_it_back_and_not_on_others_that_were_fed_the_same():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.harmless, self.root = nn.Linear(2, 2), nn.Identity(), Root()

        def forward(self, x):
            y = self.first(x)
            return self.harmless(y) + self.root(y)

    model = Shared()
    with activation_hooks(model) as hooks:
        torch.autograd.grad(model(torch.ones(1, 2)).sum(), list(model.parameters()))
    assert first_bad_gradient(hooks.gradient_stats()).name == "root"


def test_a_gradient_that_is_bad_before_it_reaches_the_model_is_blamed_on_no_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    with activation_hooks(model) as hooks:
        loss = (model(torch.ones(1, 2)) * 0).sqrt().sum()
        torch.autograd.grad(loss, list(model.parameters()))
    assert first_bad_gradient(hooks.gradient_stats()) is None


def test_no_hook_is_left_also_after_an_error():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    model = nn.Sequential(nn.Identity(), Breaks())
    with pytest.raises(RuntimeError), activation_hooks(model) as hooks:
        model(torch.ones(1))
    assert hook_count(model) == 0
    assert [s.name for s in hooks.forward_stats()] == ["0"]


def test_statistics_count_only_where_they_are_used():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    model[1].eval()
    model[0].running_mean.fill_(float("nan"))
    assert bad_state(model) == []
    model[1].running_var.fill_(float("inf"))
    model[0].weight.data[0] = float("nan")
    assert bad_state(model) == ["0.weight", "1.running_var"]
    assert bad_state(model, statistics=True) == ["0.weight", "0.running_mean", "1.running_var"]
