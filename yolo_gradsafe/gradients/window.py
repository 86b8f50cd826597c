"""Which batches an optimizer step is made of.

With gradient accumulation a step sums the gradients of several micro-batches. The window remembers for each where it
came from and what its loss was, without keeping images or graphs alive: file names, and 0-d tensors that are read only
when the step is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["AccumulationWindow", "MicroBatch"]


@dataclass
class MicroBatch:
    """One batch of the data loader."""

    epoch: int
    batch: int
    images: tuple[str, ...] = ()
    size: int = 0
    """Number of images."""
    dropped: bool = False
    """Whether it was taken out of the window."""
    loss: Tensor | None = None
    """Loss, 0-d, detached, on its device; None until the forward pass is done."""


class AccumulationWindow:
    """The micro-batches whose gradients have gathered since the last optimizer step."""

    def __init__(self) -> None:
        self.batches: list[MicroBatch] = []
        self.loaded: dict[str, Any] | None = None
        """The batch under way as it came from the loader."""
        self.content: Any = None
        """The preprocessed batch under way, to look into when it is bad; let go at its end, as the trainer does."""

    def open(self, epoch: int, batch: int) -> None:
        """Note that a micro-batch starts."""
        self.batches.append(MicroBatch(epoch, batch))

    def set_images(self, batch: Any) -> None:
        """Note the image files of the micro-batch under way, before it is preprocessed, and what the loader made.

        The loader's tensors are only referred to, until the micro-batch is released.
        """
        self.loaded = dict(batch)
        if self.batches:
            self.batches[-1].images = tuple(map(str, batch.get("im_file", ())))

    def hold_batch(self, batch: Any) -> None:
        """Hold the micro-batch under way, preprocessed."""
        self.content = batch
        if self.batches:
            self.batches[-1].size = len(batch["img"])

    def release_batch(self) -> None:
        """Let go of the micro-batch under way: its memory is the trainer's again."""
        self.content = self.loaded = None

    def skip_newest(self) -> None:
        """Note that the newest micro-batch was taken out of the gradients."""
        self.batches[-1].dropped = True

    @property
    def kept(self) -> list[MicroBatch]:
        """The micro-batches whose gradients count."""
        return [b for b in self.batches if not b.dropped]

    def set_loss(self, loss: Tensor) -> None:
        """Note the loss of the micro-batch under way."""
        if self.batches:
            self.batches[-1].loss = loss

    @property
    def losses(self) -> list[Tensor]:
        """The losses of the micro-batches that count, 0-d, on their device."""
        return [b.loss for b in self.kept if b.loss is not None]

    @property
    def newest(self) -> int:
        """Number of the batch under way in its epoch, from 1; 0 before the first."""
        return self.batches[-1].batch if self.batches else 0

    @property
    def newest_size(self) -> int:
        """Images of the batch under way."""
        return self.batches[-1].size if self.batches else 0

    @property
    def images_kept(self) -> int:
        """Images of the micro-batches that count."""
        return sum(b.size for b in self.kept)

    def images(self, losses: list[float]) -> list[str]:
        """Return the image files of the micro-batches whose loss is not finite, or of all when every loss is finite.

        Args:
            losses: The values of ``losses``.
        """
        known = [b for b in self.kept if b.loss is not None]
        bad = [b for b, loss in zip(known, losses, strict=False) if not math.isfinite(loss)]
        return [name for b in bad or self.kept for name in b.images]

    def clear(self) -> None:
        """Forget all: the step was taken or given up."""
        self.batches.clear()
