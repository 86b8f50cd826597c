"""The memory that the guard holds on the training's device while nothing is wrong, in bytes.

    python benchmarks/memory.py [--models yolo26n.yaml yolo26l.yaml yolo26n-pose.yaml]

Counted, not sampled: every tensor that can be reached from the guard's session is found, and the storages that the
trainer does not hold as well are added up. That is done at every moment at which the trainer waits for the guard or
the guard for the trainer, over optimizer steps of two micro-batches each, with the weights' updates sampled at every
step; the largest sum is printed. Snapshots lie in host memory, whatever the device, and are left out.
What a step allocates and frees again, one number a tensor and 64 where updates are
sampled, is not in it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch
from torch import Tensor, nn

from benchmarks.harness import machine, table
from benchmarks.trainer import backward, set_up
from yolo_gradsafe.recovery.snapshot import Snapshot

STEPS = 3
BLOCK = 512
"""Bytes that CUDA's caching allocator rounds a storage up to a multiple of."""


def tensors_of(root: object, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Find the tensors that an object keeps alive through containers, closures and the guard's own classes."""
    seen = set() if seen is None else seen
    if id(root) in seen:
        return
    seen.add(id(root))
    if isinstance(root, Tensor):
        yield root
        return
    for part in _parts(root):
        yield from tensors_of(part, seen)


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or ()]
    if isinstance(value, Snapshot):
        return []
    if type(value).__module__.startswith("yolo_gradsafe"):
        return list(getattr(value, "__dict__", {}).values())
    return []


def trainers(trainer: Any) -> Iterator[Tensor]:
    """Return the tensors that the trainer holds without a guard, too."""
    for module in (trainer.model, trainer.ema.ema):
        yield from module.parameters()
        yield from module.buffers()
    yield from (p.grad for p in trainer.model.parameters() if p.grad is not None)
    for state in trainer.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
    shown = [trainer.loss, trainer.loss_items, trainer.tloss, getattr(trainer.scaler, "_scale", None)]
    for value in shown:
        yield from value.values() if isinstance(value, dict) else [] if value is None else [value]


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Return the bytes of each storage by its address."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def held(guard: Any, trainer: Any) -> list[int]:
    """Return the bytes of the storages that the guard alone keeps alive."""
    session = guard._session(trainer)
    own = storages(tensors_of(session))
    # The batch under way is the trainer's: it is let go at the batch's end, when the trainer goes on to the next.
    others = storages([*trainers(trainer), *tensors_of([session._window.content, session._window.loaded])])
    return [size for address, size in own.items() if address not in others]


def measure(model: str, folder: Path, device: str) -> list[object]:
    """Take a few healthy steps and return the largest sum, with what it is compared to."""
    trainer, guard = set_up(model, "SGD", folder, device, telemetry={"update_ratio_steps": 1})
    moments = [held(guard, trainer)]
    for _ in range(STEPS):
        for _ in range(2):
            trainer.run_callbacks("on_train_batch_end")
            moments.append(held(guard, trainer))
            backward(trainer)
            moments.append(held(guard, trainer))
        trainer.optimizer_step()
        moments.append(held(guard, trainer))
    guard.teardown(trainer)
    sizes = max(moments, key=sum)
    parameters = sum(p.nbytes for p in trainer.model.parameters())
    batchnorm = sum(b.nbytes for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d) for b in m.buffers())
    own = sum(sizes)
    blocks = sum(-(-size // BLOCK) * BLOCK for size in sizes)
    ratios = [own / batchnorm, own / parameters * 100, (own - batchnorm) / parameters * 100]
    return [Path(model).stem, parameters, batchnorm, own, blocks, *ratios]


def report(arguments: Sequence[str] | None = None) -> str:
    """Count and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolo26n.yaml", "yolo26l.yaml", "yolo26n-pose.yaml"])
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(model, Path(folder), options.device) for model in options.models]
    columns = ["model", "parameters, bytes", "batch-norm statistics, bytes", "the guard's own, bytes"]
    columns += ["in CUDA's blocks of 512", "copies of the statistics", "% of parameters", "% beyond one copy"]
    return table("Memory on the device", columns, rows) + f"\n{machine(options.device)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and print the table."""
    print(f"\n{report(arguments)}")


if __name__ == "__main__":
    main()
