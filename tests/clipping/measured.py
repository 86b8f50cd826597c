"""Gradients for the tests: real parameters, measured by the real meter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yolo_gradsafe.clipping import Clip, Clipper, Observation, build
from yolo_gradsafe.clipping.clip_options import ClipOptions
from yolo_gradsafe.gradients.norms import GradientMeter, Gradients, scaled_norm

ADAPTIVE = ("percentile", "zscore", "adagc", "auto")
STAGES = {"a.weight": "backbone", "b.weight": "neck", "c.weight": "head.box", "d.weight": "head.class"}


def clipper(stage_of: Mapping[str, str] | None = None, **options) -> Clipper:
    """Build a clipper; agc has no head to exclude unless the parameters' stages are given."""
    if stage_of is None and "agc" not in options:
        options["agc"] = {"exclude": []}
    return build(ClipOptions(**options), stage_of)


def measure(
    grads: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None, images: int = 1
) -> tuple[Gradients, Observation]:
    """Give parameters these gradients and measure them, as the guarded step does."""
    parameters = []
    for name, grad in grads.items():
        parameter = nn.Parameter(weights[name].clone() if weights else torch.ones_like(grad))
        parameter.grad = grad.clone()
        parameters.append((name, parameter))
    gradients, reading = GradientMeter(parameters).measure([])
    norm = reading.norm
    if math.isinf(norm) and all(bool(grad.isfinite().all()) for grad in grads.values()):
        peak, relative = scaled_norm(gradients.tensors)
        norm = peak * relative
    return gradients, Observation(norm, reading.tensor_norms, images)


def step(rule: Clipper, norm: float, images: int = 1) -> Clip:
    """Show a rule one step whose gradient has this norm."""
    return rule.clip_(*measure({"a.weight": torch.tensor([0.6 * norm, 0.8 * norm])}, images=images))


def feed(rule: Clipper, norms: Sequence[float]) -> list[Clip]:
    """Show a rule several steps."""
    return [step(rule, float(norm)) for norm in norms]


def norm64(tensors: Sequence[Tensor]) -> float:
    """Compute a global norm in double precision."""
    return math.hypot(*(float(value) for tensor in tensors for value in tensor.double().flatten()))
