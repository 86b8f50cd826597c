"""Faults of the data: pixels and labels as a broken file or a faulty augmentation leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.faults.base import Edit
from yolo_gradsafe.drill.schedule import Moment

__all__ = ["HugeImage", "InfPixel", "NaNLabel", "NaNPixel", "PoisonousImage"]


class NaNPixel(Edit):
    """One pixel of a batch is NaN.

    Everything behind it goes the real way: the forward pass poisons the batch-norm statistics, the loss and all
    gradients become NaN.
    """

    place: ClassVar[str] = "data"
    value: ClassVar[float] = float("nan")

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the first image."""
        batch["img"][0, 0, 0, 0] = self.value
        return True


class InfPixel(NaNPixel):
    """One pixel of a batch is infinite."""

    value: ClassVar[float] = float("inf")


class HugeImage(Edit):
    """One image of a batch is 1e8 all over, as raw sensor values that nobody scaled."""

    place: ClassVar[str] = "data"

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the first image."""
        batch["img"][0] = 1e8
        return True


class NaNLabel(Edit):
    """The first box of a batch is NaN; a batch without boxes stays as it is."""

    place: ClassVar[str] = "data"

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the boxes."""
        batch["bboxes"][:1] = float("nan")
        return bool(len(batch["bboxes"]))


class PoisonousImage(Edit):
    """One image file gives a NaN pixel whenever it comes up, in every epoch."""

    place: ClassVar[str] = "data"
    lasting: ClassVar[bool] = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__(1, 1, length=0, seed=seed)
        self.file = ""
        """Name of the file: the first one of the first batch, so that it is in the training set whatever that is."""

    @property
    def when(self) -> str:
        """When it strikes, in words."""
        return "always"

    def due(self, moment: Moment) -> bool:
        """Tell whether the file is in the batch."""
        names = [Path(file).name for file in moment.files]
        self.file = self.file or (names[0] if names else "")
        return self.file in names

    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write into the file's image."""
        names = [Path(str(file)).name for file in batch["im_file"]]
        batch["img"][names.index(self.file), 0, 0, 0] = float("nan")
        return True
