"""Which batches an optimizer step is made of.

With gradient accumulation a step sums the gradients of several micro-batches. The window remembers for each where it
came from and what its loss was, without keeping images or graphs alive: file names, and 0-d tensors that are read only
when the step is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["BatchWindow", "MicroBatch"]


@dataclass
class MicroBatch:
    """One batch of the data loader."""

    epoch: int
    batch: int
    images: tuple[str, ...] = ()
    loss: Tensor | None = None
    """Loss, 0-d, detached, on its device; None until the forward pass is done."""


class BatchWindow:
    """The micro-batches whose gradients have gathered since the last optimizer step."""

    def __init__(self) -> None:
        self.batches: list[MicroBatch] = []

    def open(self, epoch: int, batch: int) -> None:
        """Note that a micro-batch starts."""
        self.batches.append(MicroBatch(epoch, batch))

    def name(self, images: tuple[str, ...]) -> None:
        """Note the image files of the micro-batch under way."""
        if self.batches:
            self.batches[-1].images = images

    def losses(self, newest: Tensor) -> list[Tensor]:
        """Return the loss of every micro-batch, given that of the one under way."""
        return [b.loss for b in self.batches[:-1] if b.loss is not None] + [newest]

    @property
    def newest(self) -> int:
        """Number of the batch under way in its epoch, from 1; 0 before the first."""
        return self.batches[-1].batch if self.batches else 0

    def images(self, losses: list[float]) -> list[str]:
        """Return the image files of the micro-batches whose loss is not finite, or of all when every loss is finite.

        Args:
            losses: The values of what ``losses`` returned.
        """
        known = [b for b in self.batches[:-1] if b.loss is not None] + self.batches[-1:]
        bad = [b for b, loss in zip(known, losses, strict=False) if not math.isfinite(loss)]
        return [name for b in bad or self.batches for name in b.images]

    def clear(self) -> None:
        """Forget all: the step was taken or given up."""
        self.batches.clear()
