"""Batch-norm statistics as they were after the last good step.

A forward pass updates ``running_mean`` and ``running_var`` before there is a loss to look at. One non-finite batch
makes them NaN for good (``0.9 * NaN + ...``); training goes on looking healthy, because it uses batch statistics, and
every later evaluation is dead (pytorch/pytorch#88474). Skipping the step does not help; putting the statistics back
does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["BatchNormShadow"]


class BatchNormShadow:
    """A copy of the buffers on their own device, kept in step with the training.

    Every look gathers the live buffers into one flat tensor, so that one kernel tells whether they are finite and the
    same tensor is the next copy: hundreds of small tensors cost two launches, not hundreds.

    Args:
        buffers: Live buffers; they are only ever written in place, because the host caches references to them.
    """

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for buffer in buffers:
            groups.setdefault(buffer.dtype, []).append(buffer.detach())
        self._live = list(groups.values())
        # Views of contiguous buffers see every later change in place, so they are made once.
        self._flat = self._flatten() if all(b.is_contiguous() for b in buffers) else None
        self._good = self._gather()
        self._seen = [flat.clone() for flat in self._good]

    @torch.no_grad()
    def look(self) -> Tensor:
        """Gather the live statistics.

        Returns:
            A 0-d tensor on their device that is finite if all of them are, and, short of overflow, only then. Does not
            synchronise.
        """
        self._seen = self._gather(self._seen)
        norms = [torch.linalg.vector_norm(flat) for flat in self._seen if flat.is_floating_point()]
        return sum(norms[1:], norms[0]) if norms else torch.zeros(())

    def keep(self) -> None:
        """Take what the last look saw as good; costs nothing."""
        self._good, self._seen = self._seen, self._good

    @torch.no_grad()
    def restore(self) -> None:
        """Put the good statistics back in place. Does not synchronise."""
        for live, good in zip(self._live, self._good, strict=True):
            parts = torch.split(good, [buffer.numel() for buffer in live])
            torch._foreach_copy_(live, [part.view_as(buffer) for part, buffer in zip(parts, live, strict=True)])

    def finite(self) -> bool:
        """Whether every live buffer is finite, element by element. Synchronises; for when ``look`` is in doubt."""
        return all(bool(b.isfinite().all()) for group in self._live for b in group if b.is_floating_point())

    def _gather(self, into: list[Tensor] | None = None) -> list[Tensor]:
        flat = self._flatten() if self._flat is None else self._flat
        if into is None:
            return [torch.cat(group) for group in flat]
        return [torch.cat(group, out=out) for group, out in zip(flat, into, strict=True)]

    def _flatten(self) -> list[list[Tensor]]:
        return [[buffer.reshape(-1) for buffer in group] for group in self._live]
