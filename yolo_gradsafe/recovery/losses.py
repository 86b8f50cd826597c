"""The losses that the trainer shows, kept true.

One NaN batch makes the epoch's running mean NaN to its end (progress bar, ``results.csv``, every logger), and a NaN in
the last batch makes Ultralytics redo the epoch although nothing is wrong with the model. After a handled step both are
put back to what they were after the last good one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from yolo_gradsafe.adapter import Host

__all__ = ["ShownLosses"]


class ShownLosses:
    """Remembers the losses of the last good step. Holds references only: the trainer makes new tensors every batch.

    Args:
        host: The trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loss: Tensor | None = None
        self._mean: Any = None
        self._last_mean: Any = None
        self._restart = False

    def keep(self) -> None:
        """Take the losses shown now as good. Does not synchronise."""
        self._loss = self._host.loss
        self._mean = self._last_mean = self._host.running_loss

    def repair(self) -> None:
        """Show the last good losses again. Does not synchronise."""
        self._host.set_loss(self._host.loss.new_zeros(()) if self._loss is None else self._loss)
        if self._mean is not None:
            self._host.set_running_loss(self._mean)
            return
        # No good batch in this epoch yet: show the last epoch's mean, and let the next batch start a new one.
        self._host.set_running_loss(self._host.zero_running_loss() if self._last_mean is None else self._last_mean)
        self._restart = True

    def begin_epoch(self) -> None:
        """Note that the trainer starts a new mean."""
        self._mean = None
        self._restart = False

    def begin_batch(self) -> None:
        """Start the mean anew when the epoch has had no good batch so far."""
        if self._restart:
            self._host.set_running_loss(None)
            self._restart = False
