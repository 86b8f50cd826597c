"""What every fault has: a place in time, a seed, a count of its strikes, and the callbacks that install it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from yolo_gradsafe.adapter.fault_target import FaultTarget, before_forward
from yolo_gradsafe.drill.schedule import Moment, Schedule, Where

__all__ = ["Edit", "Fault", "Undo", "change_gradient", "change_output"]

Undo = Callable[[], None]


class Fault(ABC):
    """Something that goes wrong in a training, below all that callbacks see.

    Args:
        epoch: Epoch in which it first strikes: an int counts from 1 (negative: from the end), a float is a share.
        batch: Batch of that epoch, likewise.
        length: Batches that it strikes; 0 for all the rest.
        every: Batches from one strike to the next.
        seed: Picks the elements that are harmed.

    Examples:
        >>> fault = NaNPixel(epoch=1, batch=2)
        >>> model.train(data="coco8.yaml", epochs=3, callbacks=[GradSafe(), fault.callbacks])
        >>> assert fault.fired == 1
    """

    place: ClassVar[str]
    """What it harms: ``data``, ``forward``, ``loss``, ``gradient``, ``weights``, ..."""
    lasting: ClassVar[bool] = False
    """Whether it strikes as well where the guard takes a batch once more, to find out what is wrong with it."""

    def __init__(self, epoch: Where = 0.5, batch: Where = 0.5, length: int = 1, every: int = 1, seed: int = 0) -> None:
        self.schedule = Schedule(epoch, batch, length, every)
        self.fired = 0
        """Batches in which it struck."""
        self.random = random.Random(f"{type(self).__name__} {seed}")
        self._batch = 0
        self._looked = False
        self._undo: Undo | None = None

    @property
    def when(self) -> str:
        """When it strikes, in words."""
        return str(self.schedule)

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """Callbacks that install the fault."""
        return {
            "on_pretrain_routine_start": self._install,
            "on_train_epoch_start": self._begin_epoch,
            "on_train_batch_end": self._end_batch,
            "teardown": self._end_batch,
        }

    def due(self, moment: Moment) -> bool:
        """Tell whether it strikes now; asked once a batch, in order."""
        return self.schedule.due(moment)

    @abstractmethod
    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo | None:
        """Do the harm, and count it in ``fired`` when it is done.

        Args:
            target: The trainer, right before a forward pass.
            batch: The preprocessed batch.

        Returns:
            What ends it, called after the batch's optimizer step; None where nothing is left to end.
        """

    def _install(self, trainer: Any) -> None:
        before_forward(trainer, self._look)

    def _begin_epoch(self, _trainer: Any) -> None:
        self._batch, self._looked = 0, False

    def _look(self, trainer: Any, batch: dict[str, Any]) -> None:
        again, self._looked = self._looked, True
        if again and not self.lasting:
            return
        target, fired = FaultTarget(trainer), self.fired
        self._batch += not again
        files = tuple(map(str, batch.get("im_file", ())))
        if self.due(Moment(target.epoch, self._batch, target.epochs, target.batches, files)):
            self._undo = self.strike(target, batch)
        if again:
            self.fired = fired

    def _end_batch(self, _trainer: Any) -> None:
        undo, self._undo, self._looked = self._undo, None, False
        if undo:
            undo()


class Edit(Fault):
    """A fault that writes into tensors between two batches."""

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> None:
        """Write."""
        with torch.no_grad():
            self.fired += self.edit(target, batch)

    @abstractmethod
    def edit(self, target: FaultTarget, batch: dict[str, Any]) -> bool:
        """Write, and tell whether there was something to write into."""

    def spoil_one(self, tensor: Tensor, value: float) -> None:
        """Write into one element, which the seed picks, whatever the memory format: models can be channels-last."""
        index = np.unravel_index(self.random.randrange(tensor.numel()), tuple(tensor.shape))
        tensor.detach()[tuple(map(int, index))] = value


def change_output(module: nn.Module, change: Callable[[Any], Any], once: bool = True) -> Undo:
    """Change what a module returns.

    Args:
        module: The module.
        change: Takes its output and returns what takes its place.
        once: Only the next forward pass: one that is repeated later finds the module sound.

    Returns:
        What takes the change away.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if once:
            handle.remove()
        return change(output)

    handle = module.register_forward_hook(hook)
    return handle.remove


def change_gradient(parameter: Tensor, change: Callable[[Tensor], Tensor]) -> Undo:
    """Change a parameter's gradient in the next backward pass, before it is added to what has gathered.

    Args:
        parameter: A leaf.
        change: Takes the gradient and returns what takes its place.

    Returns:
        What takes the change away.
    """
    spent = False

    def hook(gradient: Tensor) -> Tensor:
        nonlocal spent
        if spent:
            return gradient
        spent = True
        return change(gradient)

    handle = parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    return lambda: handle.remove()
