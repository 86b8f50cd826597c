"""Blocks as users write them, put behind a layer of the model, each with the input that it cannot stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.planted.scene import DETECT, OBB, POSE, RT_DETR, SEGMENT, V8, Fault, Scene, Truth, marked
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["FAULTS", "FunctionBlock", "put_behind"]

FAULTS: list[Fault] = []
PLACE = 4
GUILTY = 2
"""Place of the image that alone is to blame, where one is."""


class FunctionBlock(nn.Module):
    """A block that is a function of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return an output of the input's shape."""
        return self.function(x)


class WithBlock(nn.Module):
    """A layer of the model with a block behind it."""

    def __init__(self, layer: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.block = block
        self.i, self.f, self.type = layer.i, layer.f, layer.type

    def forward(self, x: Any) -> Tensor:
        """Run both."""
        return self.block(self.layer(x))


def put_behind(scene: Scene, block: Callable[[], nn.Module], place: int = PLACE, before: Any = None) -> None:
    """Put a block behind a layer of a scene's model."""
    if before:
        before(scene)
    scene.model.model[place] = WithBlock(scene.model.model[place], block())


def fails(
    backward: bool = False, model: str = DETECT, place: int = PLACE, inner: str = "", line: Any = None, **truth: Any
) -> Callable[[Any], Any]:
    """Put a function or a module class of a block into the catalogue."""
    before = truth.pop("before", None)

    def register(made: Any) -> Any:
        block = made if isinstance(made, type) else partial(FunctionBlock, made)
        name = made.__name__.strip("_").replace("_", " ")
        told = Truth(Cause.ACTIVATIONS, layer=f"model.{place}.block{inner}", line=marked(line or made), **truth)
        plant = partial(put_behind, block=block, place=place, before=before)
        direction = "backward" if backward else "forward"
        FAULTS.append(Fault(f"block: {name}, {direction}", plant, told, model))
        return made

    return register


@fails()
def attention_over_nothing(x):
    scores = x.flatten(2)
    masked = scores.masked_fill(scores == scores, -math.inf)
    return torch.softmax(masked, -1).view_as(x)  # bad


@fails(model=V8)
def division_by_a_zero_length(x):
    off = torch.relu(x - 1e4)
    return off / off.norm(dim=1, keepdim=True)  # bad


@fails()
def exponential(x):
    return torch.exp(x.abs() + 100)  # bad


@fails(model=POSE)
def attention_logits(x):
    q = x.flatten(2) * 1e25
    weights = torch.softmax(q @ q.transpose(1, 2), -1)  # bad
    return (weights @ x.flatten(2)).view_as(x)


@fails()
class LayerNormWithoutEpsilon(nn.Module):
    def forward(self, x):
        flat = (x * 0 + 1).flatten(1)
        return F.layer_norm(flat, flat.shape[1:], eps=0.0).view_as(x) + x  # bad


@fails(inner=".norm")
class InnerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8, eps=0.0, elementwise_affine=False)

    def forward(self, x):
        equal = (x * 0 + 1).reshape(-1, 8)
        return self.norm(equal).view_as(x) + x  # bad


@fails()
def deviation_of_a_single_value(x):
    spread = x.flatten()[:1].std()  # bad
    return x * spread


@fails(model=SEGMENT)
def logarithm_of_relu(x):
    return torch.log(torch.relu(x - 1e4))  # bad


@fails()
def root_of_a_negative_variance(x):
    variance = x.mean().pow(2) - x.pow(2).mean() - 1
    return x / variance.sqrt()  # bad


@fails()
def power_of_negative(x):
    return (-x.abs() - 0.1) ** 0.5  # bad


@fails(model=OBB)
def reciprocal_of_relu(x):
    return 1 / torch.relu(x - 1e4)  # bad


@fails(model=V8)
def gate_of_infinity(x):
    scale = math.inf
    return (x.abs() + 1) * scale  # bad


@fails()
def statistics_of_one_value(x):
    pooled = x.mean((0, 2, 3))[:1]
    spread = pooled.var()  # bad
    return x / (spread + 1e-5).sqrt()


@fails(model=RT_DETR, place=2)
def transformer_scaling(x):
    return x / (x - x).sum()  # bad


class _WrongForward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return torch.log(x * 0 - 1)  # bad

    @staticmethod
    def backward(context, gradient):
        return gradient


@fails(line=_WrongForward)
def own_function(x):
    return _WrongForward.apply(x)


# Backward only -------------------------------------------------------------------------------------------------------


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient / (gradient - gradient)  # bad


@fails(backward=True, line=_WrongBackward)
def own_gradient(x):
    return _WrongBackward.apply(x)


class _LostInNumpy(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod  # bad
    def backward(context, gradient):
        return torch.from_numpy(gradient.numpy() * float("nan"))


@fails(backward=True, line=_LostInNumpy, model=V8)
def own_gradient_in_numpy(x):
    return _LostInNumpy.apply(x)


@fails(backward=True)
def root_at_zero(x):
    still = (x * 0).abs() + x * 0
    return x + torch.sqrt(still)  # bad


@fails(backward=True, model=V8)
def length_at_zero(x):
    still = x - x
    return x + torch.sqrt(still.pow(2).sum(1, keepdim=True))  # bad


@fails(backward=True, model=POSE)
def masked_logarithm(x):
    off = x * 0
    logs = torch.log(off)  # bad
    return x + torch.where(off > 0, logs, torch.zeros_like(off))


@fails(backward=True)
class RootBehindAConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.LazyConv2d(16, 1)

    def forward(self, x):
        y = self.conv(x)
        return x + torch.sqrt(y - y).mean(1, keepdim=True)  # bad


@fails(backward=True)
class RootOfAParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x + torch.sqrt(self.gain)  # bad


@fails(backward=True, model=RT_DETR, place=2)
def power_at_zero(x):
    return x + (x - x).pow(0.5)  # bad


# One image only ------------------------------------------------------------------------------------------------------


def _black(scene: Scene) -> None:
    scene.batch["img"][GUILTY] = 0
    scene.batch["img"][[i for i in range(len(scene.batch["img"])) if i != GUILTY], :, 0, 0] += 0.01


class Contrast(nn.Module):
    """Evens the contrast out, before the first layer."""

    def forward(self, x):
        """Divide by the deviation, image by image."""
        spread = x.std((1, 2, 3), keepdim=True)
        return (x - x.mean((1, 2, 3), keepdim=True)) / spread  # bad


class _BlockFirst(WithBlock):
    def forward(self, x: Any) -> Tensor:
        return self.layer(self.block(x))


def _contrast_first(scene: Scene) -> None:
    _black(scene)
    scene.model.model[0] = _BlockFirst(scene.model.model[0], Contrast())


FAULTS += [
    Fault(
        f"block: contrast of a black image, {_model.split('.')[0]}",
        _contrast_first,
        Truth(Cause.ACTIVATIONS, (GUILTY,), layer="model.0.block", line=marked(Contrast)),
        _model,
    )
    for _model in (DETECT, V8, SEGMENT)
]


# What others are fed as well -----------------------------------------------------------------------------------------


def _shared(scene: Scene) -> None:
    """Put a block before layer 5, whose input goes to the neck, too."""
    scene.model.model[5] = _BlockFirst(scene.model.model[5], FunctionBlock(_WrongBackward.apply))


FAULTS += [
    Fault(
        f"block: fed what the neck is fed as well, {_model.split('.')[0]}, backward",
        _shared,
        Truth(Cause.ACTIVATIONS, layer="model.5.block", line=marked(_WrongBackward)),
        _model,
    )
    for _model in (DETECT, V8)
]
