"""Faults that can be put into a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolo_gradsafe import port

__all__ = ["NaNPixel"]


class NaNPixel:
    """Makes one pixel of one batch NaN, as a broken image or a faulty augmentation does.

    Everything behind it goes the real way: the forward pass poisons the batch-norm statistics, the loss and all
    gradients become NaN.

    Args:
        epoch: Epoch, from 1.
        batch: Batch of the epoch, from 1.

    Examples:
        >>> fault = NaNPixel(epoch=1, batch=2)
        >>> model.train(data="coco8.yaml", epochs=3, callbacks=[GradSafe(), fault.callbacks])
        >>> assert fault.fired == 1
    """

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch = epoch
        self.batch = batch
        self.fired = 0
        """Times that the fault was injected."""
        self._seen = (0, 0)

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """Callbacks that install the fault."""
        return {"on_train_start": self._install}

    def _install(self, trainer: Any) -> None:
        port.change_batches(trainer, self._change)

    def _change(self, epoch: int, batch: dict[str, Any]) -> None:
        number = self._seen[1] + 1 if self._seen[0] == epoch else 1
        self._seen = (epoch, number)
        if self._seen == (self.epoch, self.batch):
            batch["img"][0, 0, 0, 0] = float("nan")
            self.fired += 1
