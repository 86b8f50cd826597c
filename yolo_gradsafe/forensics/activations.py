"""Which layer first went wrong: what flows through every module, forward and back."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
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
    """The gradient of the loss with respect to one module's output, or to what it was fed."""

    name: str
    peak: float
    """Largest finite magnitude, with the AMP scale in it."""
    finite: bool
    at_input: bool = False
    """Whether it is that of an input: what the module itself passed back, whoever else was fed the same tensor."""


class ActivationHooks:
    """What the hooks have seen: forward in the order in which modules finish, backward in that of back-propagation."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = []
        self._looks: list[Tensor] = []
        self._gradient_places: list[tuple[str, bool]] = []
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
            GradientStats(name, peak, good > 0, at_input)
            for (name, at_input), (peak, good) in zip(self._gradient_places, _read(self._gradient_looks), strict=True)
        ]

    def forward(self, name: str, module: nn.Module, inputs: Tensor, outputs: Sequence[Tensor]) -> None:
        """Note what a module made. Does not synchronise."""
        self._rows.append((name, type(module).__name__, str(outputs[0].dtype).removeprefix("torch.")))
        self._looks.append(torch.stack([*_look(outputs), inputs.to(outputs[0].device)]))
        for output in outputs:
            self.watch_gradient(name, output)

    def watch_gradient(self, name: str, tensor: Tensor, at_input: bool = False) -> None:
        """Note the gradient that will come back to a module's output or input."""
        if tensor.requires_grad:
            tensor.register_hook(partial(self.backward, name, at_input))  # type: ignore[no-untyped-call]

    def backward(self, name: str, at_input: bool, gradient: Tensor) -> None:
        """Note a gradient that came back. Does not synchronise."""
        self._gradient_places.append((name, at_input))
        self._gradient_looks.append(torch.stack(_look([gradient.detach()])))


@contextmanager
def activation_hooks(model: nn.Module) -> Iterator[ActivationHooks]:
    """Watch every module of a model; every hook is gone afterwards, also after an error. Not for a compiled model."""
    hooks = ActivationHooks()
    started: dict[int, list[Tensor]] = {}
    handles = []

    def before(name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        # Looked at before the module runs: activations that work in place overwrite their input.
        inputs = list(_tensors((args, kwargs)))
        started.setdefault(id(module), []).append(_look(inputs)[1] if inputs else torch.ones(()))
        if not any(t.requires_grad for t in inputs):
            return None
        own = _viewed((args, kwargs))  # of its own: a tensor's hook would see what all who were fed it pass back
        for tensor in _tensors(own):
            hooks.watch_gradient(name, tensor, at_input=True)
        return own

    def after(name: str, module: nn.Module, args: Any, outputs: Any) -> None:
        inputs = started[id(module)].pop()
        if found := list(_tensors(outputs)):
            hooks.forward(name, module, inputs, found)

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
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
    """Return what the first module passed back that was not finite although all that came back to it was.

    The innermost one: what it was fed is nearer to it than to those that hold it. None where gradients are not finite
    already when they reach the model.
    """
    reached = {one.name for one in stats if not one.finite and not one.at_input}
    passed_back = (one for one in stats if one.at_input and not one.finite and one.name not in reached)
    return next((one for one in passed_back if in_model(one.name)), None)


def bad_state(model: nn.Module, unbounded: Container[str] = (), statistics: bool = False) -> list[str]:
    """Name the weights that are not finite, and the batch-norm statistics where they are used. Synchronises.

    Modules in training mode normalise with the batch's own statistics: there the buffers do no harm to the loss.

    Args:
        model: The model.
        unbounded: Buffers that are not finite by design, such as a mask of -inf.
        statistics: Look at them where they are not used, too.
    """
    named = list(model.named_parameters())
    for prefix, module in model.named_modules():
        if statistics or not module.training:
            named += [(f"{prefix}.{name}".lstrip("."), b) for name, b in module.named_buffers(recurse=False)]
    looked_at = [(name, t) for name, t in named if t.is_floating_point() and t.numel() and name not in unbounded]
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


def _viewed(value: Any) -> Any:
    """Return a nest of lists, tuples and dicts with views in the place of the tensors that have a gradient."""
    if isinstance(value, Tensor):
        return value.view_as(value) if value.requires_grad else value
    if type(value) is dict:
        return {key: _viewed(item) for key, item in value.items()}
    return type(value)(map(_viewed, value)) if type(value) in (list, tuple) else value


def _read(looks: Sequence[Tensor]) -> list[list[float]]:
    if not looks:
        return []
    rows: list[list[float]] = torch.stack([look.to(looks[0].device) for look in looks]).tolist()
    return rows
