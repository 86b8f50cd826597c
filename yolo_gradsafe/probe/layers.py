"""A model as a row of stages from the input to the loss, and hooks that see what flows through its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NORMS", "Forward", "Stage", "first_tensor", "hooked", "leaves", "stages", "trainable"]

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
"""Modules that set the scale of what flows through them."""

Forward = Callable[[str, nn.Module, Tensor, Tensor], None]
"""Called with the name, the module, its first input and its first output."""


@dataclass(frozen=True)
class Stage:
    """A part of the model that is looked at as one."""

    name: str
    """Prefix of its parameters' names, e.g. ``model.4`` or, in the head, ``model.23.cv2``."""
    module: nn.Module
    outputs: tuple[nn.Module, ...]
    """The modules whose outputs are its own: itself, or the branches of a list."""
    in_chain: bool
    """Whether its only input is the stage before it, back to the image: there a gain from stage to stage is exact."""
    in_head: bool
    """Whether it is a part of the head that the row before it shows as a whole."""

    @property
    def kind(self) -> str:
        """Class of the module."""
        return type(self.module).__name__


def stages(model: nn.Module) -> list[Stage]:
    """Part a model into its stages.

    An Ultralytics model has ``model.0``, ``model.1``, ... whose ``f`` says where their input comes from (-1: the one
    before), and its last one, the head, is shown as a whole and by its parts. Of any other model the children are taken
    as a chain.
    """
    inner = getattr(model, "model", None)
    if not isinstance(inner, nn.Sequential):
        return [Stage(name, child, (child,), True, False) for name, child in model.named_children()]
    row, chained = [], True
    for name, child in inner.named_children():
        chained = chained and getattr(child, "f", -1) == -1
        row.append(Stage(f"model.{name}", child, (child,), chained, False))
    head = row[-1]
    if len(row) > 1 and getattr(head.module, "f", -1) != -1:
        for name, part in head.module.named_children():
            if trainable(part):
                outputs = tuple(part) if isinstance(part, nn.ModuleList) else (part,)
                row.append(Stage(f"{head.name}.{name}", part, outputs, False, True))
    return row


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Return the innermost modules that can be told apart, by name: one that is used in several places is left out."""
    names: dict[int, list[str]] = {}
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not any(True for _ in module.children()):
            names.setdefault(id(module), []).append(name)
            found[name] = module
    return {name: module for name, module in found.items() if len(names[id(module)]) == 1}


def trainable(module: nn.Module) -> bool:
    """Whether any of its parameters is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def first_tensor(value: Any) -> Tensor | None:
    """Return the first float tensor in a nest of lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() and value.numel() else None
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return next((tensor for item in items if (tensor := first_tensor(item)) is not None), None)


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module], forward: Forward, backward: Callable[[str, Tensor], None] | None = None
) -> Iterator[None]:
    """Watch modules during forward and backward passes; every hook is gone afterwards.

    Args:
        modules: The modules, by the name under which they are reported.
        forward: Called after a module ran, without gradient tracking.
        backward: Called with the gradient of the loss with respect to a module's first output.
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def seen(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            source, output = first_tensor(inputs), first_tensor(outputs)
            if output is None:
                return
            with torch.no_grad():
                forward(name, module, output.detach() if source is None else source, output)
            if backward is not None and output.requires_grad:
                output.register_hook(lambda grad: backward(name, grad.detach()))  # type: ignore[no-untyped-call]

        return seen

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
