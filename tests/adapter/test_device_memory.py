"""What is free on a device, and what happens where that was not enough; the numbers of CUDA are planted."""

from __future__ import annotations

import math
import weakref

import pytest
import torch

from yolo_gradsafe.adapter.device_memory import DeviceMemory, out_of_memory, second_try

CUDA = torch.device("cuda:0")


@pytest.fixture
def cuda(monkeypatch):
    """Let CUDA say that of 100 bytes 30 are free, 50 reserved, 20 in use, and 45 were at the worst moment."""
    state = {"mem_get_info": (30, 100), "memory_reserved": 50, "memory_allocated": 20, "max_memory_allocated": 45}
    for name in state:
        monkeypatch.setattr(torch.cuda, name, lambda _device, name=name: state[name])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: state.update(memory_reserved=50))
    return state


def test_what_the_allocator_holds_unused_is_free_as_well(cuda):
    memory = DeviceMemory(CUDA)
    assert (memory.free, memory.most_used, memory.room) == (60, 25, 35)


def test_off_cuda_nothing_is_known():
    memory = DeviceMemory(torch.device("cpu"))
    assert (memory.free, memory.most_used, memory.room) == (math.inf, 0, math.inf)


def test_a_driver_that_does_not_tell_is_one_that_is_not_known(cuda, monkeypatch):
    def fails(_):
        raise RuntimeError("HIP error: operation not supported")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fails)
    assert DeviceMemory(CUDA).free == math.inf


def test_the_peak_of_a_batch_that_did_not_fit_tells_nothing_of_the_next(cuda):
    memory = DeviceMemory(CUDA)
    memory.forget_peak()
    assert memory.most_used == 0
    cuda["max_memory_allocated"] = 46
    assert memory.most_used == 26


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_reserved_beyond_training_is_given_back(cuda, fails):
    memory = DeviceMemory(CUDA)
    try:
        with memory.borrowed():
            cuda["memory_reserved"] = 70
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert cuda["memory_reserved"] == 50


@pytest.mark.parametrize("error", [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
])  # fmt: skip
def test_errors_that_say_there_was_no_memory(error):
    assert out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape '[2]' is invalid"), ValueError("out of memory")])
def test_errors_that_do_not(error):
    assert not out_of_memory(error)


def test_a_second_try_comes_after_the_first_ones_tensors_are_gone():
    alive: list[bool] = []
    weak = []

    def action() -> str:
        alive.append(bool(weak) and weak[0]() is not None)
        big = torch.zeros(3)
        weak.append(weakref.ref(big))
        if len(weak) == 1:
            raise torch.cuda.OutOfMemoryError("planted")
        return "done"

    assert second_try(action) == "done"
    assert alive == [False, False]


def test_other_errors_have_no_second_try():
    calls = []

    def action() -> None:
        calls.append(1)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        second_try(action)
    assert calls == [1]
