"""What the processes of a distributed training decide together, and how none of them waits for one that has failed.

A collective that one rank does not come to hangs all others. Everything that is agreed on goes through one kind of
message, a small MAX all-reduce of fixed size, whose first number says that a rank has failed: whatever the others are
waiting for then raises there, and all leave what they were doing together.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["RankFailed", "Ranks"]

_WIDTH = 16
"""Numbers in a message. All have the same size, because a rank that fails cannot know what the others ask."""
_TOLD = "gradsafe_told"


class RankFailed(RuntimeError):
    """Another rank failed in what was to be done together."""


class Ranks:
    """The ranks of a training; a lone process is in agreement with itself, at no cost.

    Args:
        device: Where messages lie: NCCL wants them on the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def all_reduce_max(self, values: Sequence[float]) -> list[float]:
        """Return the largest of each value over the ranks: one small all-reduce. Synchronises where there are several.

        Args:
            values: At most 15 numbers, flags as 0 and 1; nan counts as inf.

        Raises:
            RankFailed: Another rank has failed meanwhile.
        """
        return self._exchange(values, failed=False) if self.several else list(values)

    def all_reduce_min(self, value: float) -> float:
        """Return the smallest of a value over the ranks."""
        return -self.all_reduce_max([-value])[0]

    @contextmanager
    def collective(self, closing: bool = True) -> Iterator[None]:
        """Do something that all ranks enter, and that all leave with an error where one does.

        The ranks may agree on whatever they like within. May be nested.

        Args:
            closing: Wait at the end until all have done it; False where they agree on something right after it.

        Raises:
            RankFailed: Another rank has failed; the rank that has raises its own error.
        """
        try:
            yield
        except RankFailed:
            raise
        except Exception as error:
            if self.several and not vars(error).get(_TOLD):
                vars(error)[_TOLD] = True
                self._exchange((), failed=True)
            raise
        if closing:
            self.all_reduce_max(())

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the values of all ranks, by rank.

        Args:
            value: Anything that is JSON.
        """
        if not self.several:
            return [value]
        text = json.dumps(value)
        self.all_reduce_max(())  # a rank that has failed must not be met by another kind of message
        texts: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(texts, text)
        return [json.loads(text) for text in texts]

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value, on every rank.

        Args:
            value: Anything that is JSON; looked at on rank 0 alone.
        """
        if not self.several:
            return value
        texts = [json.dumps(value)]
        self.all_reduce_max(())
        dist.broadcast_object_list(texts, src=0)
        return json.loads(texts[0])

    @torch.no_grad()
    def broadcast_tensors(self, tensors: Mapping[str, Tensor], cost: float = 0.0) -> bool:
        """Copy the tensors of one rank, in place, to all others.

        Args:
            tensors: The tensors by name.
            cost: How little those of this rank are worth: the rank of the lowest cost is taken, of these the first.

        Returns:
            False when the ranks do not have tensors of the same names and shapes: nothing is copied then.
        """
        if not self.several:
            return True
        cost = math.inf if math.isnan(cost) else cost
        layout = zlib.crc32(repr([(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]).encode())
        most, least, best = self.all_reduce_max([layout, -layout, -cost])
        if most != -least:
            return False
        rank, size = dist.get_rank(), dist.get_world_size()
        source = int(self.all_reduce_min(rank if -cost == best else size - 1))
        for tensor in tensors.values():
            moved = tensor.detach().to(self._device).contiguous()
            dist.broadcast(moved, src=source)
            if moved.data_ptr() != tensor.data_ptr():
                tensor.copy_(moved)
        return True

    def _exchange(self, values: Sequence[float], failed: bool) -> list[float]:
        numbers = [math.inf if math.isnan(value) else float(value) for value in values]
        padding = [0.0] * (_WIDTH - 1 - len(numbers))
        message = torch.tensor([float(failed), *numbers, *padding], dtype=torch.float64, device=self._device)
        dist.all_reduce(message, op=dist.ReduceOp.MAX)
        any_failed, *agreed = message.tolist()
        if any_failed and not failed:
            raise RankFailed("another rank failed")
        return agreed[: len(numbers)]
