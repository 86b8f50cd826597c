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

    Args:
        buffers: Live buffers; they are only ever written in place, because the host caches references to them.
    """

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for buffer in buffers:
            groups.setdefault(buffer.dtype, []).append(buffer)
        self._live = list(groups.values())
        self._copy = [[buffer.detach().clone() for buffer in group] for group in self._live]

    @torch.no_grad()
    def keep(self) -> None:
        """Take over the live statistics as good. Does not synchronise."""
        for copy, live in zip(self._copy, self._live, strict=True):
            torch._foreach_copy_(copy, live)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the good statistics back in place. Does not synchronise."""
        for live, copy in zip(self._live, self._copy, strict=True):
            torch._foreach_copy_(live, copy)
