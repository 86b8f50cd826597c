"""Host memory for copies of many tensors, in few blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["HostArena"]

_BLOCK = 8 * 2**20
"""Bytes of a block. PyTorch rounds what it pins up to a power of two: a tensor each would take 1.5 times the memory."""
_ALIGNED = 64


class HostArena:
    """Room for a copy of each of some tensors, as they lie in memory; pinned for those on CUDA, where it can be.

    Args:
        live: The tensors by name.

    Raises:
        RuntimeError: The host has no memory for it.
    """

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        self._layout = _layout(live)
        places, sizes = _packed([tensor.numel() * tensor.element_size() for tensor in live.values()])
        self.pinned = any(tensor.is_cuda for tensor in live.values())
        """Whether copies may be under way while the host goes on."""
        try:
            blocks = [torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned) for size in sizes]
        except RuntimeError:  # the system pins no more: copies are waited for, then
            if not self.pinned:
                raise
            self.pinned = False
            blocks = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        self.copies = {
            name: _view(blocks[block], offset, tensor)
            for (name, tensor), (block, offset) in zip(live.items(), places, strict=True)
        }
        """Where each tensor's copy lies, by name; of undefined content at first."""
        self.nbytes = sum(sizes)
        """Host memory that it takes."""

    def fits(self, live: Mapping[str, Tensor]) -> bool:
        """Whether it has a place for each of these tensors, and no other."""
        return self._layout == _layout(live)


def _layout(live: Mapping[str, Tensor]) -> list[tuple[object, ...]]:
    return [(name, tensor.shape, tensor.stride(), tensor.dtype, tensor.is_cuda) for name, tensor in live.items()]


def _packed(sizes: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Pack sizes, in bytes, into blocks.

    Returns:
        Block and offset of each, and the blocks' sizes, powers of two.
    """
    places: list[tuple[int, int]] = []
    used: list[int] = []
    for size in sizes:
        room = -(-size // _ALIGNED) * _ALIGNED
        block = next((i for i, full in enumerate(used) if full + room <= _BLOCK), len(used))
        if block == len(used):
            used.append(0)
        places.append((block, used[block]))
        used[block] += room
    return places, [2 ** math.ceil(math.log2(max(full, 1))) for full in used]


def _view(block: Tensor, offset: int, tensor: Tensor) -> Tensor:
    """Return a part of a block with a tensor's type and shape; dense, and with its strides if it is dense itself."""
    strides = torch.empty_like(tensor, device="meta").stride()
    flat = block[offset : offset + tensor.numel() * tensor.element_size()].view(tensor.dtype)
    return flat.as_strided(tensor.shape, strides, flat.storage_offset())
