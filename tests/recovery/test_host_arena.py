"""Host memory for snapshots: few blocks, nothing lost where it cannot be had."""

from __future__ import annotations

import pytest
import torch

from yolo_gradsafe.recovery.host_arena import HostArena


def test_copies_lie_as_their_tensors_do_and_do_not_touch():
    live = {
        "weight": torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(7).half(),
        "count": torch.tensor(3),
        "view": torch.randn(4, 6).t()[::2],
    }
    arena = HostArena(live)
    for name, tensor in live.items():
        arena.copies[name].copy_(tensor)
    assert all(torch.equal(arena.copies[name], tensor) for name, tensor in live.items())
    assert arena.copies["weight"].stride() == live["weight"].stride()
    assert arena.fits(live)
    assert not arena.fits({**live, "count": torch.tensor(3.0)})
    assert not arena.fits({"weight": live["weight"]})


def test_a_thousand_small_tensors_are_a_few_blocks():
    live = {str(i): torch.zeros(2000 + i) for i in range(3000)}
    arena = HostArena(live)
    size = sum(t.nbytes for t in live.values())
    blocks = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in arena.copies.values()}
    assert (len(blocks), sum(blocks.values())) == (-(-size // 2**23), arena.nbytes)
    assert arena.nbytes < 1.2 * size
    assert all(block & (block - 1) == 0 for block in blocks.values()), "powers of two, as PyTorch would round them"


def test_a_tensor_larger_than_a_block_has_one_of_its_own():
    live = {"large": torch.zeros(3 * 2**20), "small": torch.zeros(8)}
    arena = HostArena(live)
    assert arena.nbytes == 16 * 2**20 + 64


def test_where_nothing_more_can_be_pinned_pageable_memory_does(monkeypatch):
    pinned = []

    def empty(size, dtype, pin_memory=False):
        pinned.append(pin_memory)
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return torch.zeros(size, dtype=dtype)

    class OnCuda(torch.Tensor):
        is_cuda = True

    live = {"weight": torch.randn(4).as_subclass(OnCuda)}
    with monkeypatch.context() as patch:
        patch.setattr("yolo_gradsafe.recovery.host_arena.torch.empty", empty)
        arena = HostArena(live)
    assert pinned == [True, False]
    assert not arena.pinned


def test_without_host_memory_the_error_is_the_callers(monkeypatch):
    def empty(*_, **__):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("yolo_gradsafe.recovery.host_arena.torch.empty", empty)
    with pytest.raises(RuntimeError, match="allocate"):
        HostArena({"weight": torch.zeros(4)})
