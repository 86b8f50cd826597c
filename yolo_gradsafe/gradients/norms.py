"""The meter: one fused pass over the gradients, one host read an optimizer step.

``GradientMeter.measure`` launches one ``torch._foreach_norm`` over all gradients, packs its result with what other
numbers the caller wants (losses, the AMP scale, a norm of the batch-norm statistics) and reads the packed vector once.
Everything that is judged later comes from that one read; the gradients themselves stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["GradientMeter", "Gradients", "Reading", "clip_by_norm_", "scaled_norm"]

_LARGEST_NORM = 1e19
"""A norm above this may have been computed from squares that overflow fp32 (3.4e38)."""


@dataclass(frozen=True)
class Gradients:
    """The gradients of one optimizer step, in the model's order, where they lie."""

    names: list[str]
    parameters: list[nn.Parameter]
    tensors: list[Tensor]
    norms: Tensor
    """L2 norm of each tensor, shape (N,), fp32, on the gradients' device."""
    total: Tensor
    """Global L2 norm as a 0-d tensor on the gradients' device."""

    def subset(self, indices: Sequence[int]) -> Gradients:
        """Return the gradients at these places, with their own total. Does not synchronise."""
        norms = torch.cat([self.norms[i : i + 1] for i in indices])  # an index tensor would come from the host
        return Gradients(
            names=[self.names[i] for i in indices],
            parameters=[self.parameters[i] for i in indices],
            tensors=[self.tensors[i] for i in indices],
            norms=norms,
            total=torch.linalg.vector_norm(norms),
        )


@dataclass(frozen=True)
class Reading:
    """What one host read tells: norms of unscaled gradients before clipping, and the caller's scalars."""

    norm: float
    """Global L2 norm of all gradients; not finite when an element is not, or when the sum of squares overflows."""
    tensor_norms: list[float]
    """L2 norm of each gradient tensor, in the order of ``Gradients.names``."""
    scalars: list[float]
    """The values of the scalars that were given to ``GradientMeter.measure``."""
    sample: NDArray[np.float32] | None
    """The values of the sample that was given to it."""


class GradientMeter:
    """Measures the gradients of a model.

    Args:
        parameters: Named parameters in the model's order; those without a gradient at a step are left out of it.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        named = list(parameters)
        self._names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]

    @torch.no_grad()
    def measure(
        self, scalars: Sequence[Tensor], grad_scale: Tensor | None = None, sample: Tensor | None = None
    ) -> tuple[Gradients, Reading]:
        """Measure the gradients as they are now.

        The total equals ``torch.nn.utils.get_total_norm`` bit for bit (same operations in the same order), so that
        clipping with it equals stock's.

        Args:
            scalars: Tensors of any shape to read along, flattened in this order.
            grad_scale: Loss scale that the gradients still carry, 0-d; None when they are unscaled already.
            sample: More numbers to read along, shape (N,).

        Returns:
            The gradients with their total norm on the device, and the reading on the host.

        Note:
            Synchronises host and device exactly once.
        """
        names, parameters, found = self._names, self._parameters, [p.grad for p in self._parameters]
        tensors = [grad for grad in found if grad is not None]
        if len(tensors) < len(found):
            have = [i for i, grad in enumerate(found) if grad is not None]
            names, parameters = [names[i] for i in have], [parameters[i] for i in have]
        norms = torch.stack(torch._foreach_norm(tensors)).float() if tensors else torch.zeros(0)
        if grad_scale is not None and tensors:
            norms = norms / grad_scale
        total = torch.linalg.vector_norm(norms)
        rest = [] if sample is None else [sample]
        host = _pack([norms, total, *scalars, *rest], norms.device).numpy(force=True)
        end = len(host) - (0 if sample is None else len(sample))
        count, values = len(tensors), host[:end].tolist()
        return Gradients(names, parameters, tensors, norms, total), Reading(
            norm=values[count],
            tensor_norms=values[:count],
            scalars=values[count + 1 :],
            sample=None if sample is None else host[end:],
        )


def _pack(scalars: Sequence[Tensor], device: torch.device) -> Tensor:
    """Flatten tensors of any float type into one fp32 vector; those that lie there already do not synchronise."""
    flat = [value.detach().reshape(-1).to(device, torch.float32) for value in scalars]
    return torch.cat(flat) if flat else torch.zeros(0, device=device)


@torch.no_grad()
def clip_by_norm_(gradients: Gradients, norm: float, max_norm: float) -> float:
    """Scale all gradients in place so that their L2 norm is at most ``max_norm``.

    Same arithmetic as ``torch.nn.utils.clip_grads_with_norm_``: ``grad * min(1, max_norm / (total + 1e-6))`` on the
    device, so the result equals stock's bit for bit. Unlike stock it makes no pass over the gradients when they are
    small enough. A norm that overflows fp32 though every gradient is finite would make that factor 0, in stock for
    every gradient of the model; here such gradients are divided by their largest magnitude first.

    Args:
        gradients: Finite gradients.
        norm: Their L2 norm as the host knows it.
        max_norm: The norm that they shall have at most.

    Returns:
        The factor by which they were scaled.

    Note:
        Does not synchronise, except for gradients whose norm overflows fp32.
    """
    # The margin leaves the borderline to the device's own arithmetic.
    if norm < max_norm * (1 - 1e-5):
        return 1.0
    if norm > _LARGEST_NORM:
        peak, relative = scaled_norm(gradients.tensors)
        torch._foreach_div_(gradients.tensors, peak)
        torch._foreach_mul_(gradients.tensors, max_norm / relative)
    else:
        scale = torch.clamp(max_norm / (gradients.total + 1e-6), max=1.0)
        torch._foreach_mul_(gradients.tensors, scale)
    return min(1.0, max_norm / (norm + 1e-6))


@torch.no_grad()
def scaled_norm(tensors: Sequence[Tensor]) -> tuple[float, float]:
    """Compute the L2 norm of finite tensors whose sum of squares overflows fp32.

    Slow path, taken only when the fused norm is infinite: the largest magnitude is divided out first.

    Returns:
        The largest magnitude, and the norm in units of it: their product, as Python floats, is the L2 norm. Both are
        nan or inf where an element is not finite.

    Note:
        Synchronises twice.
    """
    largest = torch.stack([norm.float() for norm in torch._foreach_norm(list(tensors), ord=math.inf)]).max()
    peak = float(largest)
    if not math.isfinite(peak) or peak == 0.0:
        return peak, 1.0
    shrunk = torch._foreach_div(list(tensors), largest)
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(shrunk)])
    return peak, float(torch.linalg.vector_norm(norms))
