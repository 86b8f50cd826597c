"""What the trainer shows to its user, its loggers and its own recovery: losses, columns, pictures."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo_gradsafe.adapter.compatibility import ask

__all__ = ["TrainerDisplay"]


class TrainerDisplay:
    """The part of a ``TrainerAdapter`` that reads and corrects what is shown."""

    trainer: Any

    @property
    def loss(self) -> Tensor:
        """Loss of the newest batch as back-propagated, before AMP scaling: 0-d, detached."""
        loss: Tensor = self.trainer.loss.detach()
        return loss

    def set_loss(self, loss: Tensor) -> None:
        """Replace the loss that the trainer shows to its own recovery and to the loggers."""
        self.trainer.loss = loss

    def loss_items(self) -> tuple[tuple[str, ...], list[Tensor]]:
        """Return the names of the newest batch's loss items, and the tensors that hold their values in this order.

        They are a dict from 8.4.104 on and a tensor before, with the names on the trainer.
        """
        items = ask(self.trainer, "loss_items")
        if isinstance(items, dict):
            return tuple(items), list(items.values())
        names = ask(self.trainer, "loss_names")
        return (names,) if isinstance(names, str) else tuple(names), [items]

    @property
    def running_loss(self) -> Any:
        """The epoch's running mean of the loss items, a dict or a tensor; None before the epoch's first batch."""
        return ask(self.trainer, "tloss")

    def set_running_loss(self, value: Any) -> None:
        """Replace the running mean; None makes the next batch the first of the mean."""
        self.trainer.tloss = value

    def unknown_running_loss(self) -> Any:
        """Return a running mean that is not known (nan), in the form of this version."""
        items = self.trainer.loss_items
        if isinstance(items, dict):
            return {name: torch.full_like(value, math.nan) for name, value in items.items()}
        return torch.full_like(items, math.nan)

    def accepts_columns(self, names: Iterable[str]) -> bool:
        """Whether ``results.csv`` is new or has these columns; a row longer than its header breaks its readers."""
        path = Path(ask(self.trainer, "csv"))
        if not path.is_file():
            return True
        with path.open(encoding="utf-8", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
        return set(names) <= set(header)

    def show_metrics(self, values: dict[str, float]) -> None:
        """Add numbers, under ``gradsafe/``, to what every logger is told; at ``on_fit_epoch_end``."""
        metrics = ask(self.trainer, "metrics")
        if isinstance(metrics, dict):  # None on ranks above 0
            metrics.update(values)

    def hide_metrics(self) -> None:
        """Take them out again; without validation they would become columns of the next epoch's row alone."""
        metrics = ask(self.trainer, "metrics") or {}
        for name in [name for name in metrics if name.startswith("gradsafe/")]:
            del metrics[name]

    def show_lr_times(self, factor: float) -> None:
        """Let ``results.csv`` and the loggers show the learning rate that was used; at ``on_train_epoch_end``."""
        rates = ask(self.trainer, "lr")
        rates.update({name: rate * factor for name, rate in rates.items() if name.startswith("lr/")})

    def register_plot(self, path: Path) -> None:
        """Let the loggers upload a picture."""
        self.trainer.on_plot(path)
