"""Is AMP safe? The largest activations and gradients, in fp32, against what half precision can hold.

fp16 ends at 65504 and loses precision below 6.1e-5; the loss is scaled so that gradients fit between (Micikevicius et
al. 2017, arXiv 1710.03740). bf16 has the range of fp32. Outputs of the innermost modules and of the stages are looked
at; what is computed inside a module, such as the products of an attention, is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from yolo_gradsafe.probe.layers import hooked, leaves, stages
from yolo_gradsafe.probe.parts import Headroom, LayerRange, brief

__all__ = ["BF16_MAX", "FP16_MAX", "Extremes", "judge_headroom", "measure_extremes"]

FP16_MAX = 65504.0
BF16_MAX = float(torch.finfo(torch.bfloat16).max)
TIGHT = 8.0
FIRST_EXPONENT = 16
"""PyTorch's GradScaler starts at a loss scale of 2^16 = 65536."""
SCALES = [2.0 ** (FIRST_EXPONENT - i) for i in range(25)]

Room = Literal["safe", "tight", "unsafe"]


@dataclass
class Extremes:
    """What one layer has shown so far."""

    stage: str
    activation: float = 0.0
    gradient: float = 0.0
    nonzero: int = 0
    small: list[int] = field(default_factory=lambda: [0] * len(SCALES))
    """Non-zero gradients under fp16's smallest normal number, at each of ``SCALES``."""


def measure_extremes(
    model: nn.Module, loss: Callable[[], tuple[Tensor, int]], seen: dict[str, Extremes] | None = None
) -> dict[str, Extremes]:
    """Look at the largest numbers in one forward and backward pass.

    Args:
        model: Any module, in fp32.
        loss: Runs the model on a batch; returns the loss as training back-propagates it, and the number of images.
        seen: What earlier passes have shown; it is brought up to date.

    Returns:
        The extremes by layer, in the order of the model. The gradients and hooks are gone afterwards.

    Note:
        Synchronises many times a layer: made for a few batches.
    """
    row = [stage for stage in stages(model) if not stage.in_head]
    watched = {stage.name: stage.module for stage in row} | leaves(model)
    names = sorted(row, key=lambda stage: -len(stage.name))
    if seen is None:
        seen = {}
        for name in watched:
            stage = next((s.name for s in names if name == s.name or name.startswith(f"{s.name}.")), "")
            seen[name] = Extremes(stage)
    known = seen

    def forward(name: str, module: nn.Module, source: Tensor, output: Tensor) -> None:
        known[name].activation = _larger(known[name].activation, output)

    def backward(name: str, gradient: Tensor) -> None:
        layer = known[name]
        layer.gradient = _larger(layer.gradient, gradient)
        sizes = gradient[torch.isfinite(gradient) & (gradient != 0)].float().cpu()
        layer.nonzero += sizes.numel()
        # A number of exponent e is under 2^-14 at a loss scale of 2^s just when s < -13 - e; counted for all scales.
        wanted = (-13 - torch.frexp(sizes).exponent).clamp(min=-9, max=17) + 9
        above = np.cumsum(np.bincount(wanted.numpy(), minlength=27)[::-1])[::-1]
        for i in range(len(SCALES)):
            layer.small[i] += int(above[FIRST_EXPONENT - i + 10])

    model.zero_grad()
    with hooked(watched, forward, backward):
        total, _ = loss()
        total.backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return seen


def judge_headroom(extremes: dict[str, Extremes]) -> Headroom:
    """Compare the extremes of all layers with what fp16 and bf16 hold.

    Args:
        extremes: Extremes by layer, of at least one layer.
    """
    activation_layer, activation = _largest([(name, layer.activation) for name, layer in extremes.items()])
    gradient_layer, gradient = _largest([(name, layer.gradient) for name, layer in extremes.items()])
    fits = [i for i, scale in enumerate(SCALES) if gradient * scale <= FP16_MAX]
    skipped = fits[0] if fits else len(SCALES) - 1
    nonzero = max(1, sum(layer.nonzero for layer in extremes.values()))
    under = [sum(layer.small[i] for layer in extremes.values()) / nonzero for i in range(len(SCALES))]
    fp16, reason = _fp16(activation, activation_layer, SCALES[skipped], gradient_layer, under[skipped])
    return Headroom(
        fp16=fp16,
        bf16=_room(BF16_MAX, max(activation, gradient) if math.isfinite(activation + gradient) else math.inf),
        reason=reason,
        activation_headroom=FP16_MAX / activation if activation else math.inf,
        activation_layer=activation_layer,
        gradient_layer=gradient_layer,
        loss_scale=SCALES[skipped],
        scale_search=skipped,
        underflow=under[0],
        underflow_at_scale=under[skipped],
        layers=[
            LayerRange(
                name=name,
                stage=layer.stage,
                activation=layer.activation,
                gradient=layer.gradient,
                underflow=layer.small[0] / max(1, layer.nonzero),
            )
            for name, layer in extremes.items()
        ],
    )


def _fp16(activation: float, layer: str, scale: float, gradient_layer: str, underflow: float) -> tuple[Room, str]:
    """Return the verdict and its reason."""
    room = _room(FP16_MAX, activation)
    if room == "unsafe":
        return room, f"The largest activation, in {layer}, is {brief(activation)}, and fp16 ends at 65504."
    left = f"fp16's limit is {brief(FP16_MAX / activation if activation else math.inf)} times the largest activation"
    if room == "tight":
        return room, f"{left}, in {layer}."
    if scale < 1:
        return "unsafe", f"The gradients of {gradient_layer} want a loss scale of {scale:g}."
    if underflow > 0.5:
        return "tight", f"At the loss scale that fits, {scale:g}, {100 * underflow:.0f} % of the gradients underflow."
    return room, f"{left}, in {layer}."


def _room(limit: float, largest: float) -> Room:
    if not largest <= limit:
        return "unsafe"
    return "tight" if largest * TIGHT > limit else "safe"


def _larger(known: float, values: Tensor) -> float:
    """Return the largest magnitude so far; nan counts as inf."""
    largest = float(values.abs().max())
    return max(known, math.inf if math.isnan(largest) else largest)


def _largest(sizes: Sequence[tuple[str, float]]) -> tuple[str, float]:
    return max(sizes, key=lambda pair: pair[1])
