"""What is free on a device, and what to do where that was not enough."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["DeviceMemory", "give_back", "out_of_memory", "second_try"]

_T = TypeVar("_T")

_SAID = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR")
"""What libraries say that had no memory; the first also of MPS, XPU and pinned host memory."""


class DeviceMemory:
    """Looks at the memory of a device.

    Only CUDA can be asked, and ROCm, which goes by that name; elsewhere what does not fit is found out by trying.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._failed_peak = 0

    @property
    def free(self) -> float:
        """Bytes that can be had: free on the device, or held by PyTorch's allocator and not in use. inf if unknown."""
        if self._device.type != "cuda":
            return math.inf
        try:
            free, _ = torch.cuda.mem_get_info(self._device)
        except RuntimeError:  # some drivers under ROCm and WSL do not tell
            return math.inf
        return float(free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device))

    @property
    def most_used(self) -> float:
        """Bytes that were in use beyond today's at the worst moment so far: what training's passes take. 0 if unknown.

        Nothing is reset for it: the peak belongs to the user.
        """
        peak = self._peak()
        known = peak > self._failed_peak
        return float(max(0, peak - torch.cuda.memory_allocated(self._device))) if known else 0.0

    @property
    def room(self) -> float:
        """Bytes that training leaves at its worst moment. inf if unknown."""
        return self.free - self.most_used

    def forget_peak(self) -> None:
        """Take the peak so far for that of an attempt that had too little memory: it tells nothing about training."""
        self._failed_peak = self._peak()

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Give back, at the end, what the body has made PyTorch's allocator reserve beyond what it had.

        Blocks of other sizes than training's would stay in the allocator and be of no use to it.
        """
        known = self._device.type == "cuda"
        before = torch.cuda.memory_reserved(self._device) if known else 0
        try:
            yield
        finally:
            if known and torch.cuda.memory_reserved(self._device) > before:
                give_back()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, had no memory left."""
    known = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID))


def give_back() -> None:
    """Free what nobody uses any more: tensors that a failed pass left in cycles, and the allocator's blocks."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def second_try(action: Callable[[], _T]) -> _T:
    """Return what an action returns; where it had no memory, it is called once more after what is unused was freed."""
    try:
        return action()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    give_back()  # after the error is gone: its traceback keeps the action's tensors alive
    return action()
