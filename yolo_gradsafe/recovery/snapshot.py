"""A copy of the whole training state in host memory, and what can be done with it."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from yolo_gradsafe.adapter.device_memory import second_try
from yolo_gradsafe.adapter.trainer_info import is_statistic
from yolo_gradsafe.recovery.host_arena import HostArena

__all__ = ["SUSPICIOUS", "Snapshot", "finite", "is_counter", "within"]

SUSPICIOUS = 1e4
"""Magnitude that no weight comes to, and growth that none has from one snapshot to the next."""


class Snapshot:
    """Weights, buffers, EMA and optimizer state as they were before a step.

    Tensors are found again by name, so a snapshot stays valid when the trainer puts another EMA or optimizer in place.
    They are written back in place, because the trainer's EMA and optimizer hold references to them.
    """

    def __init__(self) -> None:
        self.step = -1
        """Optimizer steps that had been taken; -1 while empty."""
        self.extra: dict[str, Any] = {}
        """What goes with the tensors: the EMA's count, the clipper's state."""
        self.copy_seconds = 0.0
        """Time that the copies took of the device's, once they have been waited for; 0 off CUDA."""
        self._arena: HostArena | None = None
        self._tensors: dict[str, Tensor] = {}
        self._under_way: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @torch.no_grad()
    def take(self, step: int, live: Mapping[str, Tensor], extra: dict[str, Any]) -> None:
        """Copy the state. On CUDA into pinned memory without waiting for the copies.

        Args:
            step: Optimizer steps taken so far.
            live: The tensors by name.
            extra: What goes with them; kept as it is.

        Raises:
            RuntimeError: The host has no memory for it; what was held before is held still.
        """
        self._wait()
        # Elsewhere than on CUDA there is no event to wait for, and without pinned memory nothing to gain.
        arena = self._arena if self._arena is not None and self._arena.fits(live) else HostArena(live)
        began = _event() if arena.pinned else None
        for name, tensor in live.items():
            arena.copies[name].copy_(tensor, non_blocking=arena.pinned and tensor.is_cuda)
        self._arena, self._tensors, self.step, self.extra = arena, arena.copies, step, extra
        self._under_way = None if began is None else (began, _event())

    def finite(self) -> bool:
        """Whether every element is finite. Works on host memory; waits for the copies only if they are under way."""
        self._wait()
        return finite(list(self._tensors.values()))

    def _wait(self) -> None:
        if self._under_way is not None:
            began, ended = self._under_way
            ended.synchronize()
            self.copy_seconds = began.elapsed_time(ended) / 1e3
            self._under_way = None

    @torch.no_grad()
    def restore(self, live: Mapping[str, Tensor]) -> set[str]:
        """Write the state back in place.

        Returns:
            Names of live tensors that the snapshot does not have: optimizer state that came later.
        """
        self._wait()
        for name, tensor in live.items():
            if name in self._tensors:
                tensor.copy_(self._tensors[name])
        return set(live) - set(self._tensors)

    @torch.no_grad()
    def repair_nonfinite(self, live: Mapping[str, Tensor], weights: Container[str]) -> list[str]:
        """Replace the elements that are not finite, or blown up, in place; zero where the snapshot has none.

        A weight beyond every size that training gives it (a flipped bit) has spoilt the batch-norm statistics behind
        it, too, finite as they may be: with such a weight all of these are taken back. Synchronises. What is suspicious
        is looked at on the host: the device may have no memory left.

        Args:
            live: The tensors by name.
            weights: Names of the weights among them. All else may be of any size.

        Returns:
            Names of the tensors that had such elements.
        """
        self._wait()
        repaired, blown_up = [], False
        for name in _large(live):
            value = live[name].to("cpu", copy=True)
            if float(value.abs().max()) <= SUSPICIOUS:
                continue
            good = self._tensors.get(name)
            source = torch.zeros_like(value) if good is None else good
            sound = value.isfinite()
            if name in weights:
                sound &= value.abs() <= SUSPICIOUS * source.abs().max().clamp(min=1.0)
                blown_up |= bool((value.isfinite() & ~sound).any())
            if not bool(sound.all()):
                live[name].copy_(torch.where(sound, value, source))
                repaired.append(name)
        if blown_up:
            self.restore({name: t for name, t in live.items() if _is_statistic(name)})
        return repaired

    @torch.no_grad()
    def drift(self, live: Mapping[str, Tensor]) -> float:
        """Return how far the weights have moved since, as a share of their norm: the median over all matrices.

        The median, because one damaged tensor says nothing about the learning rate. Synchronises; works on the host.
        """
        self._wait()
        shares = []
        for name, tensor in live.items():
            old = self._tensors.get(name)
            if old is not None and tensor.ndim > 1 and tensor.is_floating_point():
                now = tensor.to("cpu")
                shares.append(torch.linalg.vector_norm(now - old) / torch.linalg.vector_norm(old))
        known = torch.stack(shares) if shares else torch.zeros(1)
        return float(known[known.isfinite()].median()) if bool(known.isfinite().any()) else math.inf

    @staticmethod
    def nbytes(live: Mapping[str, Tensor]) -> int:
        """Return the memory that a snapshot of these takes, in bytes."""
        return sum(t.numel() * t.element_size() for t in live.values())


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every element is finite, of tensors of at most 32 bits an element. Synchronises as ``within`` does."""
    return within(tensors, torch.finfo(torch.float32).max)


@torch.no_grad()
def within(tensors: Sequence[Tensor], bound: float) -> bool:
    """Whether every element is finite and no larger than a bound. Synchronises, once a device where it is so.

    No element is larger than its tensor's L2 norm, and that is six times as fast to come by on a CPU as the largest
    element, which is asked for only where the norm is over the bound.

    Args:
        tensors: Of any shapes and devices; those of integers are left out.
        bound: Finite.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            by_device.setdefault(tensor.device, []).append(tensor)
    return all(max(_norms(t, 2.0)) <= bound or max(_norms(t, math.inf)) <= bound for t in by_device.values())


def _norms(tensors: list[Tensor], order: float) -> list[float]:
    """Return the norm of each tensor, inf where one is not finite; all on one device. Synchronises, once."""

    def read() -> list[float]:
        norms: list[float] = torch.stack([norm.float() for norm in torch._foreach_norm(tensors, ord=order)]).tolist()
        return norms

    return [math.inf if math.isnan(norm) else norm for norm in second_try(read)]


def _large(live: Mapping[str, Tensor]) -> list[str]:
    """Name the float tensors whose norm is suspicious, without the counters of steps. Synchronises, once a device."""
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in live.items():
        if tensor.is_floating_point() and not is_counter(name):
            by_device.setdefault(tensor.device, []).append(name)
    large = {
        name
        for names in by_device.values()
        for name, norm in zip(names, _norms([live[name] for name in names], 2.0), strict=True)
        if not norm <= SUSPICIOUS
    }
    return [name for name in live if name in large]


def is_counter(name: str) -> bool:
    """Whether a tensor of the training state counts an optimizer's steps: it grows without end."""
    return name.startswith("optimizer/") and name.endswith("/step")


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _is_statistic(name: str) -> bool:
    """Whether a tensor of the model or its EMA is a batch-norm statistic."""
    return is_statistic(name) and not name.startswith("optimizer/")
