"""Which layer first went wrong: what flows through every module, forward and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "ActivationHooks",
    "ActivationStats",
    "GradientStats",
    "activation_hooks",
    "bad_state",
    "first_bad",
    "first_bad_gradient",
    "in_model",
]


@dataclass(frozen=True)
class ActivationStats:
    """One run of one module."""

    name: str
    """Its name; empty for the model as a whole."""
    kind: str
    """Its class."""
    peak: float
    """Largest finite magnitude of its outputs."""
    dtype: str
    """Type of its first output: ``float16``, ``bfloat16``, ``float32``."""
    finite: bool
    """Whether all its outputs are finite."""
    inputs_finite: bool
    """Whether all its inputs were, when it started."""


@dataclass(frozen=True)
class GradientStats:
    """The gradient of the loss with respect to one module's output."""

    name: str
    peak: float
    """Largest finite magnitude, with the AMP scale in it."""
    finite: bool


class ActivationHooks:
    """What the hooks have seen: forward in the order in which modules finish, backward in that of back-propagation."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = []
        self._looks: list[Tensor] = []
        self._gradient_names: list[str] = []
        self._gradient_looks: list[Tensor] = []

    def forward_stats(self) -> list[ActivationStats]:
        """Return what the modules did. Synchronises, once."""
        return [
            ActivationStats(name, kind, peak, dtype, finite=good > 0, inputs_finite=inputs > 0)
            for (name, kind, dtype), (peak, good, inputs) in zip(self._rows, _read(self._looks), strict=True)
        ]

    def gradient_stats(self) -> list[GradientStats]:
        """Return what came back. Synchronises, once."""
        return [
            GradientStats(name, peak, finite=good > 0)
            for name, (peak, good) in zip(self._gradient_names, _read(self._gradient_looks), strict=True)
        ]

    def forward(self, name: str, module: nn.Module, inputs: Tensor, outputs: Sequence[Tensor]) -> None:
        """Note what a module made. Does not synchronise."""
        self._rows.append((name, type(module).__name__, str(outputs[0].dtype).removeprefix("torch.")))
        self._looks.append(torch.stack([*_look(outputs), inputs.to(outputs[0].device)]))
        for output in outputs:
            if output.requires_grad:
                output.register_hook(lambda gradient: self.backward(name, gradient))  # type: ignore[no-untyped-call]

    def backward(self, name: str, gradient: Tensor) -> None:
        """Note a gradient that came back to a module's output. Does not synchronise."""
        self._gradient_names.append(name)
        self._gradient_looks.append(torch.stack(_look([gradient.detach()])))


@contextmanager
def activation_hooks(model: nn.Module) -> Iterator[ActivationHooks]:
    """Watch every module of a model; every hook is gone afterwards, also after an error. Not for a compiled model."""
    hooks = ActivationHooks()
    started: dict[int, list[Tensor]] = {}
    handles = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        # Looked at before the module runs: activations that work in place overwrite their input.
        inputs = list(_tensors((args, kwargs)))
        started.setdefault(id(module), []).append(_look(inputs)[1] if inputs else torch.ones(()))

    def after(name: str, module: nn.Module, args: Any, outputs: Any) -> None:
        inputs = started[id(module)].pop()
        if found := list(_tensors(outputs)):
            hooks.forward(name, module, inputs, found)

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(partial(after, name)))
        yield hooks
    finally:
        for handle in handles:
            handle.remove()


def first_bad(stats: Sequence[ActivationStats]) -> ActivationStats | None:
    """Return the first module whose output was not finite while its inputs were; None when every output was finite.

    Inner modules finish before those that hold them, so it is the innermost one. In training the output of the model as
    a whole, and that of a loss that is a module, is the loss: they are passed over.
    """
    return next((one for one in stats if one.inputs_finite and not one.finite and in_model(one.name)), None)


def in_model(name: str) -> bool:
    """Whether a module is a part of the model proper: neither the whole, whose output is the loss, nor a loss."""
    return name != "" and not name.startswith("criterion")


def first_bad_gradient(stats: Sequence[GradientStats]) -> GradientStats | None:
    """Return the first gradient on the way back that was not finite."""
    return next((one for one in stats if not one.finite), None)


def bad_state(model: nn.Module) -> list[str]:
    """Name the weights that are not finite, and the batch-norm statistics where they are used. Synchronises.

    Modules in training mode normalise with the batch's own statistics: there the buffers do no harm to the loss.
    """
    named = list(model.named_parameters())
    for prefix, module in model.named_modules():
        if not module.training:
            named += [(f"{prefix}.{name}".lstrip("."), b) for name, b in module.named_buffers(recurse=False)]
    looked_at = [(name, t) for name, t in named if t.is_floating_point() and t.numel()]
    finite = torch.stack([t.detach().isfinite().all() for _, t in looked_at]).tolist() if looked_at else []
    return [name for (name, _), good in zip(looked_at, finite, strict=True) if not good]


def _look(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the largest finite magnitude and whether all are finite (1 or 0), each 0-d; does not synchronise."""
    with torch.no_grad():
        tensors = [t.detach().float() for t in tensors]
        peaks = [t.abs().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).amax() for t in tensors]
        finite = [t.isfinite().all() for t in tensors]
        device = tensors[0].device
        return [
            torch.stack([p.to(device) for p in peaks]).amax(),
            torch.stack([f.to(device) for f in finite]).all().float(),
        ]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the float tensors in a nest of lists, tuples and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
        return
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from _tensors(item)


def _read(looks: Sequence[Tensor]) -> list[list[float]]:
    if not looks:
        return []
    rows: list[list[float]] = torch.stack([look.to(looks[0].device) for look in looks]).tolist()
    return rows
