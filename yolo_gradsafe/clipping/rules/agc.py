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
        description="(float) > 0, smallest weight norm that counts, so that a unit initialised with zeros can train; "
        "the paper's value",
    )
    exclude: list[str] = Field(
        default=["head"],
        description="(list) stage names or globs over parameter names that are not clipped; the head, because the "
        "paper found that the final classifier must not be clipped",
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

        kept = zip(gradients.names, gradients.tensors, strict=True)
        chosen = [i for i, (name, tensor) in enumerate(kept) if name not in self.excluded and tensor.numel()]
        if not chosen or not math.isfinite(observation.norm) or observation.norm <= 0:
            return NOT_CLIPPED
        with torch.no_grad():
            overflow = not all(math.isfinite(observation.tensor_norms[i]) for i in chosen)
            self._clip_units(gradients, chosen, self.clip_factor * observation.unit, overflow)
        return Clip(math.inf, measured_scale(gradients, observation))

    def _clip_units(self, gradients: Gradients, chosen: list[int], ratio: float, overflow: bool) -> None:
        """Clip the units of all tensors: a handful of launches for each size of a unit, and not for each tensor."""
        import torch

        groups = _same_size(gradients, chosen)
        rows = [torch.cat([_units(gradients.tensors[i]) for i in members]).float() for members in groups]
        weights = [torch.cat([_units(gradients.parameters[i]) for i in members]).float() for members in groups]
        counts = [len(row) for row in rows]
        limits = _row_norms(weights).clamp_(min=self.eps).mul_(ratio)
        if overflow:
            peaks = torch.cat([row.abs().amax(dim=1) for row in rows])
            shrink = torch.ones_like(limits).masked_fill_(peaks > _LARGE, _SHRINK)
            shrunk = _times(rows, shrink, counts)
            norms = _row_norms(shrunk)
            large = norms > limits * shrink
            # In two steps, because fp32 has no factor from 3e38 to 1e-5.
            scaled = _times(shrunk, limits / norms, counts)
            chunks = zip(torch.split(large, counts), scaled, rows, strict=True)
            rows = [torch.where(where.unsqueeze(1), new, old) for where, new, old in chunks]
        else:
            norms = _row_norms(rows)
            # Exactly 1 for units that are small enough.
            rows = _times(rows, (limits / norms).where(norms > limits, 1.0), counts)
        _write_back([[gradients.tensors[i] for i in members] for members in groups], rows)


def _same_size(gradients: Gradients, chosen: list[int]) -> list[list[int]]:
    """Group tensors by the size of their units, so that a group's norms are one operation."""
    groups: dict[int, list[int]] = {}
    for index in chosen:
        groups.setdefault(_unit_size(gradients.tensors[index]), []).append(index)
    return list(groups.values())


def _unit_size(tensor: Tensor) -> int:
    return tensor.numel() // tensor.shape[0] if tensor.ndim > 1 else tensor.numel()


def _is_dense(tensor: Tensor) -> bool:
    """Whether the units of a tensor lie one after the other in memory."""
    import torch

    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _units(tensor: Tensor) -> Tensor:
    """Return a row for each unit, with its elements in the order of memory: a view where the tensor is dense."""
    size = _unit_size(tensor)
    tensor = tensor.detach()
    return (
        tensor.as_strided((tensor.numel() // size, size), (size, 1)) if _is_dense(tensor) else tensor.reshape(-1, size)
    )


def _row_norms(groups: list[Tensor]) -> Tensor:
    import torch

    return torch.cat([torch.linalg.vector_norm(rows, dim=1) for rows in groups])


def _times(groups: list[Tensor], factors: Tensor, counts: list[int]) -> list[Tensor]:
    """Multiply the rows of each group by their factors."""
    import torch

    return [rows * part.unsqueeze(1) for rows, part in zip(groups, torch.split(factors, counts), strict=True)]


def _write_back(tensors: list[list[Tensor]], groups: list[Tensor]) -> None:
    """Copy the rows of each group into its tensors, all at once."""
    import torch

    into, parts = [], []
    for members, rows in zip(tensors, groups, strict=True):
        counts = [tensor.numel() // _unit_size(tensor) for tensor in members]
        for tensor, part in zip(members, torch.split(rows, counts), strict=True):
            if _is_dense(tensor):
                into.append(_units(tensor))
                parts.append(part)
            else:
                tensor.copy_(part.reshape(tensor.shape))
    torch._foreach_copy_(into, parts)
