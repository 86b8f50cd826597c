"""Arithmetic on gradients that clippers share; right also where a sum of squares overflows fp32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yolo_gradsafe.clipping.base import Observation

if TYPE_CHECKING:
    from torch import Tensor

    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["measured_scale", "scale_", "true_norms"]

_SMALL = 1e-30
"""Factors below this are applied in two multiplications, because fp32 ends at 1e-38."""


def scale_(tensors: Sequence[Tensor], factors: Sequence[float]) -> None:
    """Multiply tensors in place, each by its own factor; those with a factor of 1 or more are not touched.

    The factors come from norms on the host, so an overflown norm on the device does no harm. Does not synchronise.
    """
    import torch

    chosen = [(tensor, factor) for tensor, factor in zip(tensors, factors, strict=True) if factor < 1]
    small = [tensor for tensor, factor in chosen if factor < _SMALL]
    with torch.no_grad():
        if small:
            torch._foreach_mul_(small, _SMALL)
        if chosen:
            rest = [factor / _SMALL if factor < _SMALL else factor for _, factor in chosen]
            torch._foreach_mul_([tensor for tensor, _ in chosen], rest)


def true_norms(gradients: Gradients, observation: Observation) -> list[float]:
    """Return the norm of each tensor; those that overflow fp32 are measured again.

    Does not synchronise, except twice for each tensor whose norm overflows.
    """
    from yolo_gradsafe.gradients.norms import scaled_norm

    norms = list(observation.tensor_norms)
    for index in [i for i, norm in enumerate(norms) if not math.isfinite(norm)]:
        peak, relative = scaled_norm([gradients.tensors[index]])
        norms[index] = peak * relative
    return norms


def measured_scale(gradients: Gradients, observation: Observation) -> float:
    """Measure the global norm again, after clipping, and return it over the one before.

    The same operations as before, so the result is exactly 1 where nothing was changed. Synchronises once, three times
    when the norm overflows fp32.
    """
    import torch

    from yolo_gradsafe.gradients.norms import scaled_norm

    with torch.no_grad():
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients.tensors)])
        ratio = float(torch.linalg.vector_norm(norms) / gradients.total)
    if math.isfinite(ratio) and ratio > 0:
        return min(1.0, ratio)
    peak, relative = scaled_norm(gradients.tensors)
    return min(1.0, peak * relative / observation.norm)
