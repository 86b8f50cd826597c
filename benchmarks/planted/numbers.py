"""Faults of precision and of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.planted.blocks import FunctionBlock, put_behind
from benchmarks.planted.losses import add_term
from benchmarks.planted.scene import DETECT, OBB, POSE, RT_DETR, SEGMENT, V8, Fault, Scene, Truth
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["FAULTS"]

LAYER = "model.4.cv1.conv"
BLOCK = "model.4.block"


def _scaled(scene: Scene, layer: str, factor: float) -> None:
    """Multiply a layer's weight, as a long training may; batch norm divides it out again."""
    with torch.no_grad():
        scene.model.get_submodule(layer).weight.mul_(factor)


# Precision -----------------------------------------------------------------------------------------------------------


def _squares(x: Tensor) -> Tensor:
    high = (x - x + 1) * 300
    return x + (high * high) * 1e-6


def _close_to_one(x: Tensor) -> Tensor:
    """Divide by a difference that 8 bits cannot hold."""
    one = (x - x) + 1
    return x + 1e-4 / ((one + 1e-3) - 1)


def _logits(x: Tensor) -> Tensor:
    q = x.flatten(2) * 100 + 300
    return x + torch.softmax(q @ q.transpose(1, 2), -1).mean() * 0.01


def _bright(scene: Scene) -> None:
    """Let one image of a batch be far brighter, which a first layer with large weights cannot hold."""
    scene.batch["img"][3] *= 3000
    _scaled(scene, "model.0.conv", 200)


class _Steep(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return gradient * 1e9


def _small_term(boxes: Tensor, scores: Tensor, batch: Any) -> Tensor:
    """Divide by what fp16 takes for 0."""
    return 1e-4 / (boxes.mean().abs().half().float() * 0 + torch.tensor(1e-9).to(_forward_dtype(scores)).float())


def _forward_dtype(_: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _behind(function: Callable[[Tensor], Tensor], place: int = 4) -> Callable[[Scene], None]:
    return partial(put_behind, block=partial(FunctionBlock, function), place=place)


def _precision(name: str, plant: Any, layer: str, model: str = DETECT, precision: str = "fp16", **more: Any) -> Fault:
    truth = Truth(Cause.PRECISION, more.pop("images", ()), layer, more.pop("term", ""), precision=precision)
    return Fault(f"{precision}: {name}", plant, truth, model, precision, **more)


FAULTS = [
    _precision(f"a layer grows, {_model.split('.')[0]}", partial(_scaled, layer=_layer, factor=3e6), _layer, _model)
    for _model, _layer in (
        (DETECT, LAYER), (V8, LAYER), (POSE, "model.6.cv1.conv"), (SEGMENT, "model.2.cv1.conv"), (OBB, LAYER),
        (RT_DETR, "model.2.conv"),
    )
]  # fmt: skip
FAULTS += [
    _precision("own block squares", _behind(_squares), BLOCK),
    _precision("attention logits", _behind(_logits), BLOCK, V8),
    _precision("one bright image", _bright, "model.0.conv", images=(3,)),
    _precision("gradient of a block", _behind(_Steep.apply), BLOCK, amp_scale=1024.0),
    _precision("gradient of a block, at its loss scale", _behind(_Steep.apply), BLOCK, V8, amp_scale=65536.0),
    _precision("own term", partial(add_term, term=_small_term), "", term="own_loss"),
    _precision("own block subtracts", _behind(_close_to_one), BLOCK, precision="bf16"),
    _precision("own block subtracts, pose", _behind(_close_to_one, 6), "model.6.block", POSE, "bf16"),
    _precision("own block subtracts, RT-DETR", _behind(_close_to_one, 2), "model.2.block", RT_DETR, "bf16"),
]


def _large(scene: Scene) -> None:
    """Let a layer's outputs lie between the largest number of bf16 and that of fp32."""
    scene.model.model[4] = _Edge(scene.model.model[4])


class _Edge(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.block = layer, FunctionBlock(_edge)
        self.i, self.f, self.type = layer.i, layer.f, layer.type

    def forward(self, x: Tensor) -> Tensor:
        high = self.block(self.layer(x))
        return high * 1e-38


def _edge(x: Tensor) -> Tensor:
    return (x - x) + torch.tensor(3.4e38).to(x.dtype)


def _steep_term(boxes: Tensor, scores: Tensor, batch: Any) -> Tensor:
    """Have a gradient that bf16 rounds to a division by zero."""
    near = (scores * 0 + 1 + 1e-3).to(_forward_dtype(scores)).float() - 1
    return torch.sqrt(near).mean()


FAULTS += [
    _precision("outputs beyond its largest number", _large, BLOCK, precision="bf16"),
    _precision("gradient of an own term", partial(add_term, term=_steep_term), "", precision="bf16"),
]


# Weights -------------------------------------------------------------------------------------------------------------


def _spoil(scene: Scene, layer: str, value: float, kind: str = "weight") -> None:
    """Write a value into a weight that was good before."""
    scene.trust()
    with torch.no_grad():
        getattr(scene.model.get_submodule(layer), kind).view(-1)[0] = value


def _fill(scene: Scene, layer: str, value: float) -> None:
    scene.trust()
    with torch.no_grad():
        scene.model.get_submodule(layer).weight.fill_(value)


def _diverge(scene: Scene) -> None:
    """Let the head run away since the weights were trusted."""
    scene.trust()
    with torch.no_grad():
        for name, parameter in scene.model.model[-1].named_parameters():
            if name.endswith("bias"):
                parameter.add_(40.0)


def _largest_side(boxes: Tensor, scores: Tensor, batch: Any) -> Tensor:
    """Overflow once predictions are beyond all bounds."""
    return torch.exp(scores.abs().amax() * 4 - 60)


def _diverge_and_overflow(scene: Scene, only: int | None = None) -> None:
    """Let the head run away until a term overflows: in every batch, or for one image."""
    _diverge(scene)
    term = _largest_side if only is None else partial(_of_one, only=scene.batch["bboxes"][only].clone())
    scene.model.criterion = None
    add_term(scene, term)


def _of_one(boxes: Tensor, scores: Tensor, batch: Any, only: Tensor) -> Tensor:
    """Overflow for the image that has a certain box."""
    there = (batch["bboxes"] == only).all(1).any().float()
    return torch.exp((scores.abs().amax() * 4 - 60) * there)


def _rising(scene: Scene) -> None:
    """Let losses rise before the batch fails."""
    _diverge_and_overflow(scene)
    scene.elevated = True


def _outgrown(scene: Scene) -> None:
    """Let weights outgrow fp16 while the loss in fp32 is far above the usual."""
    _diverge(scene)
    _scaled(scene, LAYER, 3e6)


def _weights(name: str, plant: Any, layer: str = "", model: str = DETECT, **more: Any) -> Fault:
    precision = more.pop("precision", "fp32")
    truth = Truth(Cause.WEIGHTS, layer=layer, term=more.pop("term", ""), precision=more.pop("fails_in", precision),
                  line=more.pop("line", ""))  # fmt: skip
    return Fault(f"weights: {name}", plant, truth, model, precision, **more)


HEAD = {DETECT: "model.23.cv2.0.2", V8: "model.22.cv3.1.2", RT_DETR: "model.5.dec_score_head.0"}

FAULTS += [
    _weights(f"NaN, {_model.split('.')[0]}", partial(_spoil, layer=LAYER, value=math.nan), LAYER, _model)
    for _model in (DETECT, POSE, SEGMENT, OBB)
]
FAULTS += [
    _weights(f"infinite in the head, {_model.split('.')[0]}", partial(_spoil, layer=_layer, value=math.inf), _layer,
             _model)
    for _model, _layer in HEAD.items()
]  # fmt: skip
FAULTS += [
    _weights("NaN bias", partial(_spoil, layer="model.9.cv1.bn", value=math.nan, kind="bias"), "model.9.cv1.bn"),
    _weights("NaN in fp16", partial(_spoil, layer=LAYER, value=math.nan), LAYER, V8, precision="fp16"),
    _weights("huge", partial(_fill, layer=LAYER, value=3e38), LAYER),
    _weights("huge, in bf16", partial(_fill, layer=LAYER, value=3e38), LAYER, V8, precision="bf16", fails_in="fp32"),
    _weights(
        "diverged, and a term overflows for one image",
        partial(_diverge_and_overflow, only=0),
    ),
    _weights("diverged, and a term overflows", _diverge_and_overflow),
    _weights("diverged, and a term overflows, pose", _diverge_and_overflow, model=POSE),
    _weights("losses had been rising", _rising, model=V8),
    _weights("diverged, and outgrown fp16", _outgrown, model=V8, precision="fp16"),
]
