"""Lets batch-norm statistics follow weights that move fast.

A running statistic with Ultralytics' momentum of 0.03 averages over some 33 batches. Where each step moves the weights
by some percent of their size, that is the statistic of other weights: the loss of training, which uses the statistics
of its batch, falls as it should, while the model of validation and of the checkpoints, which uses the running ones, is
useless. A third of that memory is enough to follow, and is what PyTorch has by default.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["BatchNormMomentum"]

_FAST = 0.1
"""PyTorch's default, https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html."""


class BatchNormMomentum:
    """Raises ``momentum`` of a model's batch-norm layers to 0.1, and puts it back. Reads and launches nothing.

    Args:
        model: The live model. Its EMA, which is what Ultralytics saves, has layers of its own that stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: dict[_BatchNorm, float] = {}

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
        self._before |= slow
        for layer in slow:
            layer.momentum = _FAST
        return bool(slow)

    def restore(self) -> None:
        """Put back what it was."""
        for layer, momentum in self._before.items():
            layer.momentum = momentum
        self._before = {}

    def _slow_layers(self) -> dict[_BatchNorm, float]:
        layers = (module for module in self._model.modules() if isinstance(module, _BatchNorm))
        return {layer: layer.momentum for layer in layers if layer.momentum and layer.momentum < _FAST}
