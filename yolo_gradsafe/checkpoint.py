"""Looks through a checkpoint without running any code of it: what is no tensor becomes an inert stand-in.

Ultralytics pickles whole modules, of its own classes and the user's. Their weights are found here by walking through
what was pickled, so neither these classes nor the version that wrote them have to be at hand.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from yolo_gradsafe.report.postmortem.checkpoint import BatchNorm, Checkpoint, Tensor

__all__ = ["read_checkpoint"]

FP16_MAX = 65504.0
"""Largest number of half precision, in which checkpoints are saved."""
WIDE_MEAN, WIDE_VARIANCE = 1e4, 3e4
"""Statistics from which on a batch-norm layer is called off: fp16 ends at 6.5e4."""

_HARMLESS = {
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""All that is looked up by name; the rest of a pickle is made of stand-ins."""


class _StandIn:
    """Takes the place of an object of any class: keeps its state, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            vars(self).update({str(key): value for key, value in state.items()})

    def append(self, item: Any) -> None:
        """Take an item, as of a subclass of list."""

    def extend(self, items: Any) -> None:
        """Take items, as of a subclass of list."""

    def add(self, item: Any) -> None:
        """Take an item, as of a set."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an item, as of a subclass of dict."""


class _Unpickler(pickle.Unpickler):
    """Looks up the few harmless names, types of numbers and storages; a stand-in for everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in {"torch", "torch.storage"} and name.endswith("Storage") and hasattr(torch, name):
            return getattr(torch, name)
        return _HARMLESS.get((module, name), _StandIn)


def read_checkpoint(path: Path, run: Path) -> Checkpoint:
    """Look through a checkpoint.

    Args:
        path: The file.
        run: The run's folder, which the checkpoint is named relative to.

    Returns:
        What was found. A file that cannot be read is one finding, never an exception.
    """
    file = path.relative_to(run).as_posix()
    pickled = SimpleNamespace(Unpickler=_Unpickler, load=pickle.load, __name__="gradsafe")
    try:
        values = torch.load(path, map_location="cpu", pickle_module=pickled, weights_only=False)
        model = values.get("ema") or values.get("model")
        if model is None:
            raise ValueError("it holds no model")
        return _looked_through(file, values, model)
    except Exception as error:  # whatever half a file, or one of another kind, may lead to
        return Checkpoint(file, error=f"{type(error).__name__}: {error}".splitlines()[0])


def _looked_through(file: str, values: Mapping[str, Any], model: Any) -> Checkpoint:
    found = {
        name: (tensor, own) for name, tensor, own in _tensors(model) if tensor.is_floating_point() and tensor.numel()
    }
    tensors = {name: tensor for name, (tensor, _) in found.items()}
    if not tensors:
        raise ValueError("it holds no weights")
    nonfinite, clamped, zero = [], [], []
    for name, (tensor, own) in found.items():
        # A buffer of the user's own, such as an attention mask, may hold infinities by design.
        bad = _count(tensor.isnan() if own else ~tensor.isfinite())
        most = 0 if own else _count(tensor.abs() == FP16_MAX)
        if bad:
            nonfinite.append(Tensor(name, tensor.numel(), bad))
        if most:
            clamped.append(Tensor(name, tensor.numel(), most))
        if _never_zero(name) and not bool(tensor.any()):
            zero.append(Tensor(name, tensor.numel(), tensor.numel()))
    optimizer, scaler = values.get("optimizer"), values.get("scaler")
    epoch = values.get("epoch")
    metrics = values.get("train_metrics")
    yaml = getattr(model, "yaml", None)
    return Checkpoint(
        file,
        epoch=epoch + 1 if isinstance(epoch, int) and epoch >= 0 else 0,
        stripped=optimizer is None,
        version=str(values.get("version") or ""),
        model=str(yaml.get("yaml_file") or "") if isinstance(yaml, Mapping) else "",
        tensors=len(tensors),
        nonfinite=nonfinite,
        clamped=clamped,
        zero=zero,
        batchnorm=list(_batchnorm(tensors)),
        optimizer_nonfinite=sum(bool((~tensor.isfinite()).any()) for tensor in _state(optimizer)),
        amp_scale=float(scaler["scale"]) if isinstance(scaler, Mapping) and "scale" in scaler else None,
        metrics={str(key): value for key, value in metrics.items()} if isinstance(metrics, Mapping) else {},
    )


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Yield the parameters and buffers of a pickled module by the names of its ``state_dict``.

    With each comes whether it is a buffer of the user's own, and no statistic of a batch norm.
    """
    parts = vars(module) if hasattr(module, "__dict__") else {}
    unsaved = parts.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (parts.get(kind) or {}).items():
            if isinstance(tensor, torch.Tensor) and name not in unsaved:
                yield f"{prefix}{name}", tensor, kind == "_buffers" and not name.startswith("running_")
    for name, child in (parts.get("_modules") or {}).items():
        yield from _tensors(child, f"{prefix}{name}.")


def _state(optimizer: Any) -> Iterator[torch.Tensor]:
    states = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    for state in (states or {}).values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor) and value.is_floating_point())


def _never_zero(name: str) -> bool:
    """Whether a tensor of this name is nowhere 0 throughout, neither when it is made nor when it is trained."""
    return name.endswith((".weight", ".running_var"))


def _batchnorm(tensors: Mapping[str, torch.Tensor]) -> Iterator[BatchNorm]:
    for name, variance in tensors.items():
        if not name.endswith(".running_var"):
            continue
        layer = name.removesuffix(".running_var")
        mean = tensors.get(f"{layer}.running_mean", torch.zeros(1)).float().abs().max().item()
        largest = variance.float().max().item()
        sound = variance.float().min().item() >= 0 and mean < WIDE_MEAN and largest < WIDE_VARIANCE
        if not (sound and math.isfinite(mean) and math.isfinite(largest)):
            yield BatchNorm(layer, mean, largest)


def _count(mask: torch.Tensor) -> int:
    return int(mask.sum())
