"""Does signal flow forward, and gradient back, at initialisation? One forward and one backward pass on a real batch.

A plain deep network multiplies the gradient's norm at each layer, and away from 1 that explodes or vanishes with depth
(Glorot and Bengio 2010; He et al. 2015, arXiv 1502.01852). Normalisation and skip connections hold YOLO's chain between
1.2 and 1.7 a layer, so the thresholds below leave it a wide berth.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn

from yolo_gradsafe.probe.layers import NORMS, Stage, hooked, leaves, stages, trainable
from yolo_gradsafe.probe.parts import Dead, Init, Layer, Unnormalised, brief
from yolo_gradsafe.probe.units import activation_sites, channels_dead, weight_scales

__all__ = ["Flow", "chain_gain", "measure_init", "verdict"]

GAIN, RATIO, HOPELESS, WEIGHTS = 2.0, 100.0, 1e4, 3.0
"""Gain a layer that with its total over RATIO is exploding; total that is so alone; weights / He that are too large."""

Flow = Literal["healthy", "exploding", "vanishing"]


def measure_init(model: nn.Module, loss: Callable[[], tuple[Tensor, int]]) -> Init:
    """Look at one forward and backward pass through a model.

    Args:
        model: Any module, in training mode; of an Ultralytics model the stages are ``model.0``, ``model.1``, ...
        loss: Runs the model on a batch; returns the loss, summed over the images, and their number.

    Returns:
        What flowed. The gradients and hooks are gone afterwards; batch-norm statistics have seen the batch.

    Note:
        Synchronises many times a layer: made for one batch.
    """
    row = stages(model)
    std: dict[str, list[float]] = defaultdict(list)
    gradient: dict[str, list[float]] = defaultdict(list)
    dead: dict[str, tuple[int, int]] = {}
    sites = activation_sites(model)
    convs: dict[str, bool] = {}

    def branch(_: str, module: nn.Module, source: Tensor, output: Tensor) -> None:
        std[owner[id(module)]].append(float(output.float().std()))

    def unit(name: str, module: nn.Module, source: Tensor, output: Tensor) -> None:
        dead[name] = channels_dead(output, sites[name][1])

    def leaf(name: str, module: nn.Module, source: Tensor, output: Tensor) -> None:
        if isinstance(module, nn.modules.conv._ConvNd) and trainable(module):
            convs[name] = False
            output.from_conv = name  # type: ignore[attr-defined]
        elif isinstance(module, NORMS) and (conv := getattr(source, "from_conv", None)) is not None:
            convs[conv] = True

    parts = {f"{stage.name}:{i}": module for stage in row for i, module in enumerate(stage.outputs)}
    owner = {id(module): stage.name for stage in row for module in stage.outputs}
    model.zero_grad()
    with (
        hooked(parts, branch, lambda name, grad: gradient[name.rpartition(":")[0]].append(float(grad.float().norm()))),
        hooked({name: module for name, (module, _) in sites.items()}, unit),
        hooked(leaves(model), leaf),
    ):
        total, images = loss()
        total.backward()  # type: ignore[no-untyped-call]
    layers = [_layer(stage, std[stage.name], gradient[stage.name]) for stage in row]
    norm = _norm(model)
    model.zero_grad()
    chain = [layer for layer in layers if layer.in_chain]
    back = chain_gain([float(v) for layer in reversed(chain) if (v := layer.output_gradient) is not None])
    ahead = chain_gain([float(v) for layer in chain if (v := layer.activation_std) is not None])
    weights = weight_scales(model)
    ratio = median(float(weight.he) for weight in weights) if weights else None
    flow, reason = verdict(norm, float(total.detach()) / images, back, ahead, ratio)
    counts = [sum(column) for column in zip(*dead.values(), strict=True)] or [0, 1]
    worst = sorted(((n / of, name) for name, (n, of) in dead.items() if n), reverse=True)
    head = row[-1].name.split(".")[:2] if len(row) > 1 else []
    return Init(
        verdict=flow,
        reason=reason,
        loss=float(total.detach()) / images,
        gradient_norm=norm,
        gradient_gain=back and back[0],
        gradient_ratio=back and back[1],
        activation_gain=ahead and ahead[0],
        activation_ratio=ahead and ahead[1],
        weight_ratio=ratio,
        dead_share=counts[0] / counts[1],
        dead=[Dead(name=name, share=share) for share, name in worst],
        unnormalised=[
            Unnormalised(name=name, expected=_closes_head(name, model, head)) for name, ok in convs.items() if not ok
        ],
        layers=layers,
        weights=weights,
    )


def chain_gain(sizes: Sequence[float]) -> tuple[float, float] | None:
    """Return the geometric mean of the factor from one size to the next, and the factor from the first to the last.

    Args:
        sizes: Sizes along a chain, in the direction of the flow; None is returned for fewer than 3.
    """
    if len(sizes) < 3:
        return None
    first, last = sizes[0], sizes[-1]
    if not all(map(math.isfinite, sizes)):
        return math.nan, math.nan
    if first == 0.0 or last == 0.0:
        return 0.0, 0.0
    log = math.log(last) - math.log(first)
    return math.exp(log / (len(sizes) - 1)), math.exp(log)


def verdict(
    norm: float,
    loss: float,
    gradient: tuple[float, float] | None,
    activation: tuple[float, float] | None,
    weights: float | None,
) -> tuple[Flow, str]:
    """Judge the flow.

    Args:
        norm: Global L2 norm of the gradients.
        loss: Loss an image.
        gradient: Gain a layer and over the chain of the gradient, backward.
        activation: The same of the activations, forward.
        weights: Median over the layers of the weights' rms / He's.

    Returns:
        The verdict, and its reason as a sentence.
    """
    if not (math.isfinite(norm) and math.isfinite(loss)):
        return "exploding", "The loss or the gradient of the first batch is not finite."
    for what, gain in (("gradient", gradient), ("signal", activation)):
        if gain is None:
            continue
        each, whole = gain
        said = f"{brief(whole)} times in all, {brief(each)} a layer"
        if not math.isfinite(whole) or whole >= HOPELESS or (each >= GAIN and whole >= RATIO):
            return "exploding", f"The {what} grows with depth: {said}."
        if whole <= 1 / HOPELESS or (each <= 1 / GAIN and whole <= 1 / RATIO):
            return "vanishing", f"The {what} shrinks with depth: {said}."
    if weights is not None and weights >= WEIGHTS:
        return "exploding", (
            f"The weights are {brief(weights)} times He's. Normalisation hides that in the body, not "
            f"in the head: the first loss is {loss:.3g} an image."
        )
    if norm == 0.0:
        return "vanishing", "No gradient reaches the weights."
    gains = [f"{what} {gain[0]:.2f}" for what, gain in (("gradient", gradient), ("signal", activation)) if gain]
    return "healthy", f"Gain a layer: {', '.join(gains)}." if gains else "Finite; the chain is too short for a gain."


def _layer(stage: Stage, std: Sequence[float], gradient: Sequence[float]) -> Layer:
    return Layer(
        name=stage.name,
        kind=stage.kind,
        in_chain=stage.in_chain,
        in_head=stage.in_head,
        activation_std=math.sqrt(sum(value**2 for value in std) / len(std)) if std else None,
        output_gradient=math.hypot(*gradient) if gradient else None,
        gradient=_norm(stage.module) if trainable(stage.module) else None,
    )


def _norm(module: nn.Module) -> float:
    """Return the L2 norm of the gradients of a module's parameters."""
    norms = [parameter.grad.float().norm() for parameter in module.parameters() if parameter.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _closes_head(name: str, model: nn.Module, head: Sequence[str]) -> bool:
    """Whether a layer is the last of its branch in the head, where no normalisation is wanted."""
    if name.split(".")[:2] != list(head):
        return False
    parent = model.get_submodule(name.rpartition(".")[0])
    return not isinstance(parent, nn.Sequential) or name.rpartition(".")[2] == str(len(parent) - 1)
