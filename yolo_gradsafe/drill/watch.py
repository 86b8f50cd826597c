"""Counts what really happens in a training, beside the plugin and without asking it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.drill.outcome import count_bad

__all__ = ["Watch"]


class Watch:
    """Counts epochs, calls of the optimizer, and steps that were undone."""

    def __init__(self) -> None:
        self.target: FaultTarget | None = None
        """The trainer, when there is one."""
        self.epochs: list[int] = []
        """Epochs in the order in which they were started."""
        self.applied = 0
        """Calls of the optimizer."""
        self.rolled_back = 0
        """Steps by which the averaged model's count went back."""
        self.spoiled_saves = 0
        """Checkpoints written from an averaged model that float16 cannot hold."""
        self._updates = 0

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """Callbacks that count."""
        return {
            "on_pretrain_routine_end": self._begin,
            "on_train_epoch_start": self._begin_epoch,
            "on_train_batch_start": self._compare,
            "on_train_batch_end": self._compare,
            "on_model_save": self._look_at_save,
        }

    def _begin(self, trainer: Any) -> None:
        self.target = FaultTarget(trainer)
        self.target.optimizer.register_step_post_hook(self._count)

    def _begin_epoch(self, _trainer: Any) -> None:
        if self.target:
            self.epochs.append(self.target.epoch)

    def _count(self, *_: Any) -> None:
        self.applied += 1

    def _compare(self, _trainer: Any) -> None:
        if self.target:
            updates = self.target.ema_updates
            self.rolled_back += max(0, self._updates - updates)
            self._updates = updates

    def _look_at_save(self, _trainer: Any) -> None:
        if self.target:
            most = torch.finfo(torch.float16).max
            self.spoiled_saves += count_bad(self.target.state()["ema"].values(), most) > 0
