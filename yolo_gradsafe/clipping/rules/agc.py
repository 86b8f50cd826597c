"""Adaptive gradient clipping: each unit by the norm of its own weights."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from pydantic import Field

from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip, Observation
from yolo_gradsafe.clipping.registry import RuleSection, Stages, built_in
from yolo_gradsafe.clipping.scaling import measured_scale
from yolo_gradsafe.clipping.stages import select
from yolo_gradsafe.clipping.state import Stateless

if TYPE_CHECKING:
    from torch import Tensor

    from yolo_gradsafe.clipping.clip_options import SharedOptions
    from yolo_gradsafe.gradients.norms import Gradients

__all__ = ["AGCClipper", "AGCOptions"]

_LARGE, _SHRINK = 1e15, 1e-25
"""Elements over the first are multiplied by the second before they are squared, where squares overflow fp32."""


@built_in("agc", "each unit by its weight norm", heading="adaptive gradient clipping, arXiv 2102.06171", position=3)
class AGCOptions(RuleSection):
    """Adaptive gradient clipping, unit by unit."""

    clip_factor: float = Field(
        default=0.01,
        gt=0,
        description="(float) > 0, largest ratio of a unit's gradient norm to its weight norm; 0.01 is the paper's, for "
        "gradients that are means over the batch. Ultralytics sums over the batch: set clip.per_image as well",
    )
    eps: float = Field(
        default=1e-3,
        gt=0,
        description="(float) > 0, smallest weight norm that counts, so that a zero-initialised unit can train; the "
        "paper's",
    )
    exclude: list[str] = Field(
        default=["head"],
        description="(list) stage names or globs over parameter names that are left alone; the head, because the paper "
        "found that the final classifier must not be clipped",
    )

    def build(self, shared: SharedOptions, stages: Stages) -> AGCClipper:
        """Build the clipper; ConfigError when a pattern of ``exclude`` matches nothing."""
        excluded = [name for pattern in self.exclude for name in select(pattern, stages, "clip.agc.exclude")]
        return AGCClipper(self.clip_factor, self.eps, excluded)


class AGCClipper(Stateless):
    """Scale each unit's gradient to ``clip_factor * max(weight norm, eps)`` when its norm is larger.

    Brock et al. 2021, "High-performance large-scale image recognition without normalization", arXiv 2102.06171. A unit
    is an output channel: all of a weight's dimensions but the first; a bias or a norm layer's vector is one unit, as in
    the authors' code and timm. The ``eps`` on the weight norm, which Composer's version lacks, lets zero-initialised
    units train; the final classifier is to be excluded.

    Args:
        clip_factor: Largest ratio of gradient norm to weight norm; default 0.01, the paper's, for a mean loss.
        eps: Smallest weight norm that counts; default 1e-3, the paper's.
        excluded: Names of the parameters that are left alone; by default those of the head.
    """

    def __init__(self, clip_factor: float, eps: float, excluded: Collection[str]) -> None:
        self.clip_factor = clip_factor
        self.eps = eps
        self.excluded = frozenset(excluded)

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Scale in place. Synchronises once, to report the scale; three times when a norm overflows fp32."""
        import torch

        chosen = [i for i, name in enumerate(gradients.names) if name not in self.excluded]
        if not chosen or not math.isfinite(observation.norm) or observation.norm <= 0:
            return NOT_CLIPPED
        with torch.no_grad():
            for members in _same_units(gradients, chosen):
                overflow = not all(math.isfinite(observation.tensor_norms[i]) for i in members)
                self._clip_alike(gradients, members, self.clip_factor * observation.unit, overflow)
        return Clip(math.inf, measured_scale(gradients, observation))

    def _clip_alike(self, gradients: Gradients, members: list[int], ratio: float, overflow: bool) -> None:
        """Clip tensors that have the same units, together."""
        import torch

        tensors = [gradients.tensors[i] for i in members]
        units = tensors[0].shape[0] if tensors[0].ndim > 1 else 1
        weights = torch.stack([gradients.parameters[i].reshape(units, -1).float() for i in members])
        stacked = torch.stack([tensor.reshape(units, -1).float() for tensor in tensors])
        limits = torch.linalg.vector_norm(weights, dim=-1).clamp_(min=self.eps).mul_(ratio)
        shrink = torch.ones_like(limits)
        if overflow:
            shrink.masked_fill_(stacked.abs().amax(dim=-1) > _LARGE, _SHRINK)
            stacked.mul_(shrink.unsqueeze(-1))
        norms = torch.linalg.vector_norm(stacked, dim=-1)
        large = norms > limits * shrink
        # In two steps, because fp32 has no factor from 3e38 to 1e-5. Exactly 1 for units that are small enough.
        if overflow:
            _multiply_units_(tensors, shrink.where(large, 1.0))
        _multiply_units_(tensors, (limits / norms).where(large, 1.0))


def _same_units(gradients: Gradients, chosen: list[int]) -> list[list[int]]:
    """Group tensors by number and size of their units, so that a group's norms are one operation."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index in chosen:
        tensor = gradients.tensors[index]
        units = tensor.shape[0] if tensor.ndim > 1 else 1
        groups.setdefault((units, tensor.numel()), []).append(index)
    return list(groups.values())


def _multiply_units_(tensors: list[Tensor], factors: Tensor) -> None:
    """Multiply the units of each tensor by its row of factors, in place."""
    import torch

    shapes = [(-1, *[1] * (tensor.ndim - 1)) if tensor.ndim else () for tensor in tensors]
    rows = [row.reshape(shape) for row, shape in zip(factors, shapes, strict=True)]
    torch._foreach_mul_(tensors, [row.to(tensor.dtype) for row, tensor in zip(rows, tensors, strict=True)])
