"""Lets batch-norm statistics follow weights that move fast.

A running statistic with Ultralytics' momentum of 0.03 averages over some 33 batches. Where each step moves the weights
by some percent of their size, that is the statistic of other weights: the loss of training, which uses the statistics
of its batch, falls as it should, while the model of validation and of the checkpoints, which uses the running ones, is
useless. A third of that memory is enough to follow, and is what PyTorch has by default.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["BatchNormMomentum"]

_FAST = 0.1
"""PyTorch's default, https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html."""


class BatchNormMomentum:
    """Raises ``momentum`` of a model's batch-norm layers to 0.1, and puts it back. Reads and launches nothing.

    Args:
        model: The live model.
        averaged: Returns its EMA, which is what Ultralytics saves; None without one. Its layers are its own and stay as
            they are, unless it is made anew from the live model.
    """

    def __init__(self, model: nn.Module, averaged: Callable[[], nn.Module | None] = lambda: None) -> None:
        self._model = model
        self._averaged = averaged
        self._before: dict[str, float | None] = {}

    @property
    def raised(self) -> bool:
        """Whether it is raised now."""
        return bool(self._before)

    @property
    def slow(self) -> bool:
        """Whether there are layers that could follow faster than they do."""
        return bool(self._slow_layers())

    def raise_momentum(self) -> bool:
        """Raise it where it is lower; return whether that is new. Layers that average over all batches stay."""
        slow = self._slow_layers()
        self._before |= {name: layer.momentum for name, layer in slow.items()}
        for layer in slow.values():
            layer.momentum = _FAST
        return bool(slow)

    def restore(self) -> None:
        """Put back what it was."""
        self._put_back(self._model)
        self.restore_averaged()
        self._before = {}

    def restore_averaged(self) -> None:
        """Put it back in an EMA that was made from the live model meanwhile, and took it over."""
        averaged = self._averaged() if self._before else None
        if averaged is not None:
            self._put_back(averaged)

    def _put_back(self, model: nn.Module) -> None:
        for name, layer in _layers(model).items():
            layer.momentum = self._before.get(name, layer.momentum)

    def _slow_layers(self) -> dict[str, _BatchNorm]:
        layers = _layers(self._model)
        return {name: layer for name, layer in layers.items() if layer.momentum and layer.momentum < _FAST}


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
