"""The state of single layers: scale of the weights, dead activations, convolutions without normalisation behind them.

The expected scales are those of He et al. 2015 (arXiv 1502.01852), ``sqrt(2 / fan_in)``, which keeps the variance of
the activations of a plain ReLU network, and of Glorot and Bengio 2010, ``sqrt(2 / (fan_in + fan_out))``. PyTorch's own
default, which Ultralytics leaves as it is, has 0.41 times He's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from yolo_gradsafe.probe.layers import trainable
from yolo_gradsafe.probe.parts import WeightScale

__all__ = ["ACTIVATIONS", "activation_sites", "channels_dead", "weight_scales"]

ACTIVATIONS: dict[type[nn.Module], tuple[float, ...]] = {
    nn.ReLU: (0.0,),
    nn.LeakyReLU: (),
    nn.ReLU6: (0.0, 6.0),
    nn.SiLU: (0.0,),
    nn.GELU: (0.0,),
    nn.Mish: (0.0,),
    nn.Hardswish: (0.0,),
    nn.ELU: (-1.0,),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
}
"""Activations, and the outputs at which their slope is zero or nearly so."""

NEAR = 1e-3
"""An output of a bounded activation is saturated when it is this near to its bound; 0 of the others is 1e-6."""


def weight_scales(model: nn.Module) -> list[WeightScale]:
    """Compare the weights of each trained convolution and linear layer with the scale they would be drawn with.

    Synchronises once a layer.
    """
    return list(_scales(model))


def _scales(model: nn.Module) -> Iterator[WeightScale]:
    for name, module in model.named_modules():
        if not (isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and trainable(module)):
            continue
        weight = module.weight.detach()
        groups = module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1
        fan_in, fan_out = weight[0].numel(), weight[:, 0].numel() // groups
        if isinstance(module, nn.modules.conv._ConvTransposeNd):  # its weight is (in, out / groups, ...)
            fan_in, fan_out = weight[:, 0].numel() // groups, weight[0].numel()
        std = float(weight.float().pow(2).mean().sqrt())
        yield WeightScale(
            name=name,
            fan_in=fan_in,
            fan_out=fan_out,
            rms=std,
            he=std / math.sqrt(2 / fan_in),
            xavier=std / math.sqrt(2 / (fan_in + fan_out)),
        )


def activation_sites(model: nn.Module) -> dict[str, tuple[nn.Module, tuple[float, ...]]]:
    """Find the modules whose output is an activation's, and the outputs at which that is dead.

    Ultralytics' blocks share one activation module, so it is the block (anything with an ``act``) that is watched.
    """
    sites: dict[str, tuple[nn.Module, tuple[float, ...]]] = {}
    owned: set[int] = set()
    for name, module in model.named_modules():
        act = getattr(module, "act", None)
        if isinstance(act, nn.Module) and type(act) in ACTIVATIONS:
            owned.add(id(act))
            sites[name] = module, ACTIVATIONS[type(act)]
    for name, module in model.named_modules():
        if type(module) in ACTIVATIONS and id(module) not in owned:
            sites[name] = module, ACTIVATIONS[type(module)]
    return sites


def channels_dead(output: Tensor, bounds: tuple[float, ...]) -> tuple[int, int]:
    """Count the channels that are dead: at a bound of their activation at every place of every image.

    Args:
        output: Output of the activation: (N, C, H, W), or (..., C) with fewer dimensions.
        bounds: Outputs at which the activation's slope is zero.

    Returns:
        Dead channels, and channels. Synchronises once.
    """
    channels = output.transpose(0, 1).flatten(1) if output.ndim == 4 else output.reshape(-1, output.shape[-1]).T
    at_bound = channels.new_zeros(channels.shape, dtype=torch.bool)
    for bound in bounds:
        at_bound |= (channels - bound).abs() <= (NEAR if len(bounds) > 1 else 1e-6)
    return int(at_bound.all(dim=1).sum()), channels.shape[0]
