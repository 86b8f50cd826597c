"""A CUDA device that is none: tensors that say ``cuda:0`` and lie in host memory, and a device that keeps account.

``FakeCuda`` is a context within which whole guarded training steps run as on a GPU. It

* refuses operations that mix devices, but for CPU tensors of one number;
* notes each read by the host with the place in the code, and each blocking copy to the device;
* lets a copy to pinned memory hold NaN until an event, or something else that waits for the device, was waited for;
* counts allocations and bytes in use, and raises ``torch.OutOfMemoryError`` at a chosen allocation, or at a limit;
* has autocast and a ``GradScaler``, and finds the fused optimizers, as on CUDA.

What it cannot be: fast, asynchronous in anything but copies to the host, or of another rounding than the CPU's. cuDNN,
cuBLAS and their workspaces, streams, graphs, NCCL, compiled models and the fragments of an allocator are not simulated,
nor what a kernel takes for itself: a peak here is that of tensors. A ``foreach`` counts as one launch, also where CUDA
would take its slow path. fp16 is cast where the CPU's list of operations says so, which is not quite CUDA's. All of
that is for ``benchmarks/gpu.sh``.
"""

from __future__ import annotations

import sys
import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["CUDA", "FakeCuda", "FakeTensor"]

CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
"""Operations that give a value, or a number of values, to the host."""
COPIES = {"copy", "_to_copy", "index", "index_put", "_index_put_impl", "set"}
"""Operations that take tensors of both devices."""
NOT_LAUNCHED = {
    "view", "_unsafe_view", "detach", "alias", "as_strided", "t", "transpose", "permute", "expand", "slice", "select",
    "split", "split_with_sizes", "unsqueeze", "squeeze", "unbind", "reshape", "_reshape_alias", "empty", "empty_like",
    "empty_strided", "new_empty", "new_empty_strided", "unfold", "lift_fresh", "diagonal", "chunk", "set", "narrow",
}  # fmt: skip
"""Operations without a kernel."""
PACKAGE = str(Path(__file__).parent.parent / "yolo_gradsafe")


class Block:
    """Memory of the device, given back when no tensor refers to it any more."""

    __slots__ = ("__weakref__", "size")

    def __init__(self, size: int) -> None:
        self.size = size


class FakeTensor(Tensor):
    """A tensor that says that it is on the device; ``host`` is where its values are."""

    host: Tensor
    block: Block
    owner: FakeCuda

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        owner = next(t.owner for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, FakeTensor))
        return owner.run(func, args, kwargs or {})

    # To PyTorch's core this is a CPU tensor. What asks no operation of it, and would be wrong of one on CUDA:

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **_without_copy(kwargs))
        if args and isinstance(args[0], Tensor):
            device, dtype = args[0].device, args[0].dtype
        copy, dtype = kwargs.get("copy", False), dtype or self.dtype
        if (device or CUDA).type == "cuda" and dtype == self.dtype and layout is None and not copy:
            return self
        self.owner.leaving = (device or CUDA).type != "cuda"
        try:
            return torch.ops.aten._to_copy(self, dtype=dtype, device=device or CUDA, memory_format=layout)
        finally:
            self.owner.leaving = False

    def cpu(self, *args: Any) -> Tensor:
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def float(self) -> Tensor:
        return self.to(torch.float32)

    def half(self) -> Tensor:
        return self.to(torch.float16)

    def tolist(self) -> Any:
        self.owner.wait("tolist")
        return self.host.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def is_pinned(self, *_: Any) -> bool:
        return False

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        return torch.tensor(data, **{"device": CUDA, "dtype": self.dtype, **kwargs})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            with torch.no_grad():
                copy = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, nn.Parameter):
                copy = nn.Parameter(copy.detach(), self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:
        return f"FakeTensor({tuple(self.shape)}, {self.dtype})"


def _without_copy(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "copy"}


class FakeEvent:
    """Stands in for ``torch.cuda.Event``."""

    owner: FakeCuda

    def __init__(self, enable_timing: bool = False) -> None:
        self._timing = enable_timing
        self._recorded = 0

    def record(self) -> None:
        self._recorded = self.owner.started

    def synchronize(self) -> None:
        self.owner.events += 1
        self.owner.finish_copies(self._recorded)

    def elapsed_time(self, other: FakeEvent) -> float:
        assert self._timing
        assert other._timing
        return 0.0


class FakeCuda(TorchDispatchMode):
    """The device.

    Args:
        capacity: Bytes of its memory.
    """

    def __init__(self, capacity: float = 2**34) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = self.peak = self.reserved = 0
        """Bytes that are in use, that were at most, and that an allocator would hold."""
        self.allocations = 0
        """Allocations so far."""
        self.fails_at: int | None = None
        """Number of the allocation that fails, from 1."""
        self.full_from: int | None = None
        """Number of the allocation from which on all fail that are larger than ``full_size``."""
        self.full_size = 0
        self.out_of_memory = 0
        """Allocations that failed."""
        self.ways: set[str] | None = None
        """Ways through the guard's own lines on which there were allocations; None where they are not noted."""
        self.fails_on: str | None = None
        """Such a way; the next allocation on it fails."""
        self.reads: list[str] = []
        """What made the host wait, and where, ``NAME FILE:LINE, FILE:LINE``: innermost places first."""
        self.uploads: list[str] = []
        """The same of copies to the device for which the host waits."""
        self.launches: Counter[str] = Counter()
        """Operations with a kernel, by name; a ``foreach`` counts once."""
        self.events = 0
        """Events that were waited for."""
        self.started = 0
        """Copies to pinned memory so far."""
        self.leaving = False
        """Whether a tensor is being copied to the host, by a call of Python's."""
        self._copies: list[tuple[int, Tensor, Tensor]] = []
        self._pinned: set[int] = set()
        self._keep: list[Tensor] = []
        self._patch = pytest.MonkeyPatch()

    # Memory -------------------------------------------------------------------------------------------------------

    def _allocate(self, size: int) -> Block:
        self.allocations += 1
        way = _way() if self.ways is not None or self.fails_on is not None else None
        if self.ways is not None:
            self.ways.add(way)
        chosen = self.allocations == self.fails_at or (way is not None and way == self.fails_on)
        large = self.full_from is not None and self.allocations >= self.full_from and size > self.full_size
        if chosen or large or self.used + size > self.capacity:
            self.out_of_memory += 1
            self.fails_on = None
            raise torch.OutOfMemoryError(f"CUDA out of memory. Planted at allocation {self.allocations}.")
        block = Block(size)
        self.used += size
        self.peak, self.reserved = max(self.peak, self.used), max(self.reserved, self.used)
        weakref.finalize(block, self._free, size)
        return block

    def _free(self, size: int) -> None:
        self.used -= size

    def _empty_cache(self) -> None:
        self.reserved = self.used

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave the compiler out of it: to import it takes longer than a test."""
        return False

    # Operations ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on the host, and account for what it would be on the device."""
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        flat = tree_flatten((args, kwargs))[0]
        fakes = [t for t in flat if isinstance(t, FakeTensor)]
        device = kwargs.get("device")
        claims = device is not None and torch.device(device).type == "cuda"
        if name == "copy" and len(fakes) == 1:
            return self._copy(func, args, kwargs)
        if name == "_to_copy" and fakes and self.leaving:
            return self._to_host(args[0], kwargs)
        if name == "_to_copy" and claims and not fakes:
            self._upload(args[0], kwargs.get("non_blocking", False))
        if kwargs.pop("pin_memory", False) if not fakes else False:
            return self._pin(func(*args, **kwargs))
        if not fakes and not claims:
            return func(*args, **kwargs)
        if device is not None and torch.device(device).type == "meta":
            return func(*_hosts(args), **_hosts(kwargs))
        self._check_devices(name, fakes, flat)
        by_mask = name in {"index", "_index_put_impl", "index_put"} and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if name in WAITING or by_mask:
            self.wait(name)
        if name not in NOT_LAUNCHED:
            self.launches[name] += 1
        if claims:
            kwargs = {**kwargs, "device": CPU}  # which is also what a backward pass asks for, by PyTorch's core
        out = func(*_hosts(args), **_hosts(kwargs))
        return out if name in {"_local_scalar_dense", "equal"} else self._wrap(out, fakes)

    def _wrap(self, out: Any, inputs: list[FakeTensor]) -> Any:
        """Return what an operation made as tensors on the device; inputs and views of them keep their memory."""
        same = {id(t.host): t for t in inputs}
        blocks = {t.host.untyped_storage().data_ptr(): t.block for t in inputs}

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
                return value
            if id(value) in same:
                return same[id(value)]
            place = value.untyped_storage().data_ptr()
            if place not in blocks or not place:
                blocks[place] = self._allocate(value.untyped_storage().nbytes())
            return self.tensor(value, blocks[place])

        return tree_map(wrap, out)

    def tensor(self, host: Tensor, block: Block | None = None) -> FakeTensor:
        """Return a tensor on the device with these values, which are not copied."""
        host = host.detach()
        fake = Tensor._make_subclass(FakeTensor, host, False)
        fake.host, fake.owner = host, self
        fake.block = block or self._allocate(host.untyped_storage().nbytes())
        return fake

    def _check_devices(self, name: str, fakes: list[FakeTensor], flat: list[Any]) -> None:
        if name in COPIES:
            return
        strangers = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, FakeTensor) and t.ndim]
        if fakes and strangers:
            shapes = [tuple(t.shape) for t in strangers]
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, cuda:0; on the CPU are {shapes}"
            )

    # Waiting ------------------------------------------------------------------------------------------------------

    def wait(self, name: str) -> None:
        """Let the host wait for all that was launched, and note why."""
        self.reads.append(f"{name} {_place()}")
        self.finish_copies(self.started)

    def finish_copies(self, until: int) -> None:
        """Let the copies to pinned memory arrive that were started by then."""
        for number, into, values in self._copies:
            if number <= until:
                into.copy_(values)
        self._copies = [copy for copy in self._copies if copy[0] > until]

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        into, source = args[:2]
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        self.launches["copy"] += 1
        if isinstance(into, FakeTensor):
            self._upload(source, non_blocking)
            into.host.copy_(source)
            return into
        if non_blocking and into.untyped_storage().data_ptr() in self._pinned:
            self.started += 1
            self._copies.append((self.started, into, source.host.clone()))
            into.fill_(float("nan") if into.is_floating_point() else -1)
            return into
        self.wait("copy to the host")
        into.copy_(source.host)
        return into

    def _to_host(self, source: FakeTensor, kwargs: Any) -> Tensor:
        self.launches["copy"] += 1
        self.wait("copy to the host")
        rest = {key: value for key, value in kwargs.items() if key not in {"device", "non_blocking", "pin_memory"}}
        return torch.ops.aten._to_copy(source.host, **rest)

    def _upload(self, source: Tensor, non_blocking: bool) -> None:
        if not (non_blocking and source.untyped_storage().data_ptr() in self._pinned):
            self.uploads.append(f"copy to the device {_place()}")

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned.add(tensor.untyped_storage().data_ptr())
        self._keep.append(tensor)  # an address names it
        return tensor

    # The rest of PyTorch --------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeCuda:
        patch, cuda = self._patch, torch.cuda
        event = type("Event", (FakeEvent,), {"owner": self})
        for name, value in {
            "is_available": lambda: True, "is_initialized": lambda: True, "_lazy_init": lambda: None,
            "device_count": lambda: 1, "current_device": lambda: 0, "get_device_name": lambda *_: "fake",
            "synchronize": lambda *_: self.wait("synchronize"), "Event": event, "empty_cache": self._empty_cache,
            "is_bf16_supported": lambda including_emulation=True: True, "is_current_stream_capturing": lambda: False,
            "mem_get_info": lambda *_: (self.capacity - self.reserved, self.capacity),
            "memory_allocated": lambda *_: self.used, "memory_reserved": lambda *_: self.reserved,
            "max_memory_allocated": lambda *_: self.peak, "get_rng_state": lambda *_: torch.get_rng_state(),
            "set_rng_state": lambda state, *_: torch.set_rng_state(state),
            "get_rng_state_all": lambda: [torch.get_rng_state()],
            "set_rng_state_all": lambda states: torch.set_rng_state(states[0]),
        }.items():  # fmt: skip
            patch.setattr(cuda, name, value)
        if hasattr(torch, "accelerator"):
            stream = SimpleNamespace(is_capturing=lambda: False)
            patch.setattr(torch.accelerator, "current_stream", lambda *_: stream, raising=False)
        self._patch_autocast()
        self._patch_grouping()
        self._patch_conversions()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) copies by an operation that is seen
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        self._patch.undo()

    def _patch_autocast(self) -> None:
        """Let what is set for CUDA hold for the CPU, whose kernels these are."""
        real = torch.amp.autocast_mode.autocast

        class Autocast(real):
            def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, **rest: Any) -> None:
                dtype = dtype or (torch.float16 if device_type == "cuda" else None)
                super().__init__("cpu", dtype=dtype, enabled=enabled, **rest)

        for module in (torch, torch.amp, torch.amp.autocast_mode):
            self._patch.setattr(module, "autocast", Autocast)
        for name in ("is_autocast_enabled", "set_autocast_enabled", "get_autocast_dtype", "set_autocast_dtype"):
            own = getattr(torch, name)
            self._patch.setattr(torch, name, lambda *args, own=own: own("cpu", *args[1:]))

    def _patch_grouping(self) -> None:
        """Let optimizers and stock's clip see the device of what they group."""
        utils = torch.utils._foreach_utils
        own = utils._group_tensors_by_device_and_dtype

        def grouped(*args: Any, **kwargs: Any) -> Any:
            groups = own(*args, **kwargs)
            return {
                (CUDA if isinstance(lists[0][0], FakeTensor) else device, dtype): (lists, indices)
                for (device, dtype), (lists, indices) in groups.items()
            }

        for module in (utils, torch.nn.utils.clip_grad, sys.modules[Optimizer.__module__]):
            self._patch.setattr(module, "_group_tensors_by_device_and_dtype", grouped)
        optimizer = sys.modules[Optimizer.__module__]
        self._patch.setattr(optimizer, "_foreach_supported_types", [Tensor, nn.Parameter, FakeTensor])
        self._patch.setattr(torch.nn.utils.clip_grad, "_has_foreach_support", lambda *_: True)

    def _patch_conversions(self) -> None:
        """Let tensors of the CPU be taken to where another tensor says that it is."""
        own_to, own_as = Tensor.to, Tensor.type_as

        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if args and isinstance(args[0], FakeTensor):
                args = (CUDA, args[0].dtype, *args[1:])
            return own_to(tensor, *args, **kwargs)

        def type_as(tensor: Tensor, other: Tensor) -> Tensor:
            same = isinstance(tensor, FakeTensor) == isinstance(other, FakeTensor)
            return own_as(tensor, other) if same else tensor.to(other.device, other.dtype)

        self._patch.setattr(Tensor, "to", to)
        self._patch.setattr(Tensor, "type_as", type_as)

    # Models and batches -----------------------------------------------------------------------------------------------

    def move(self, module: nn.Module) -> nn.Module:
        """Put a module's parameters and buffers on the device, in place; they are other tensors then."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(self.tensor(parameter.detach()), parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.tensor(buffer)
            for name, value in vars(part).items():
                if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
                    setattr(part, name, self.tensor(value))
        return module

    @contextmanager
    def counted(self) -> Iterator[FakeCuda]:
        """Count reads, uploads and launches anew in the body."""
        self.reads, self.uploads, self.launches = [], [], Counter()
        yield self


def _hosts(value: Any) -> Any:
    return tree_map(lambda t: t.host if isinstance(t, FakeTensor) else t, value)


def _way() -> str:
    """Return the package's own lines that are being run, the innermost first."""
    lines, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        frame = frame.f_back
    return ", ".join(lines)


def _place() -> str:
    """Return the innermost lines outside of PyTorch that are being run."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "torch" not in Path(f.filename).parts]
    near = [f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames)]
    return ", ".join(near[:4])
