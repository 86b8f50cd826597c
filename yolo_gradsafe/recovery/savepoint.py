"""What a forward pass has changed before there is a loss to look at, as it was after the last good step.

A forward pass updates ``running_mean`` and ``running_var``. One non-finite batch makes them NaN for good
(``0.9 * NaN + ...``); training goes on looking healthy, because it uses batch statistics, and every later evaluation is
dead (pytorch/pytorch#88474). Skipping the step does not help; putting the statistics back does.

One NaN batch also makes the epoch's running mean of the losses NaN to its end (progress bar, ``results.csv``, every
logger), and a NaN in the last batch makes Ultralytics redo the epoch although nothing is wrong with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.adapter.trainer_info import is_statistic
from yolo_gradsafe.recovery.outcome import Outcome, Settle

__all__ = ["BufferSavepoint", "LossSavepoint", "Savepoint"]


class BufferSavepoint:
    """A copy of the buffers on their own device, kept in step with the training.

    Every look gathers the live buffers into one flat tensor, so that one kernel tells whether they are finite and the
    same tensor is the next copy: hundreds of small tensors cost two launches, not hundreds.

    Args:
        statistics: Live batch-norm statistics and counters; they are only ever written in place, because the trainer
            caches references to them.
        others: Live buffers of another kind: they have to be finite, too, and may be of any size.
    """

    def __init__(self, statistics: Sequence[Tensor], others: Sequence[Tensor] = ()) -> None:
        groups: dict[tuple[bool, torch.dtype], list[Tensor]] = {}
        for sized, buffers in ((True, statistics), (False, others)):
            for buffer in buffers:
                groups.setdefault((sized, buffer.dtype), []).append(buffer.detach())
        self._live = list(groups.values())
        self._sized = [sized for sized, _ in groups]
        """Whether the size of a group's elements tells something."""
        # Views of contiguous buffers see every later change in place, so they are made once.
        self._flat = self._flatten() if all(b.is_contiguous() for b in (*statistics, *others)) else None
        self._good = self._gather()
        self._seen = [flat.clone() for flat in self._good]
        self._observed = False

    @torch.no_grad()
    def observe(self) -> Tensor:
        """Gather the live buffers.

        Returns:
            The norm of the statistics, a 0-d tensor on their device that is finite if all buffers are, and, short of
            overflow, only then. Does not synchronise.
        """
        self._seen = self._gather(self._seen)
        self._observed = True
        found = [
            (torch.linalg.vector_norm(flat), sized)
            for flat, sized in zip(self._seen, self._sized, strict=True)
            if flat.is_floating_point()
        ]
        norms = [norm if sized else 0 * norm for norm, sized in found]  # 0 times what is not finite is NaN
        return sum(norms[1:], norms[0]) if norms else torch.zeros(())

    def commit(self) -> None:
        """Take what was observed last as good; nothing when that was committed already. Costs nothing."""
        if self._observed:
            self._good, self._seen = self._seen, self._good
            self._observed = False

    @torch.no_grad()
    def rollback(self) -> None:
        """Put the good buffers back in place. Does not synchronise."""
        for live, good in zip(self._live, self._good, strict=True):
            parts = torch.split(good, [buffer.numel() for buffer in live])
            torch._foreach_copy_(live, [part.view_as(buffer) for part, buffer in zip(parts, live, strict=True)])

    def finite(self) -> bool:
        """Whether every live buffer is finite, element by element. Synchronises; for when ``observe`` is in doubt."""
        return all(bool(b.isfinite().all()) for group in self._live for b in group if b.is_floating_point())

    def _gather(self, into: list[Tensor] | None = None) -> list[Tensor]:
        flat = self._flatten() if self._flat is None else self._flat
        if into is None:
            return [torch.cat(group) for group in flat]
        return [torch.cat(group, out=out) for group, out in zip(flat, into, strict=True)]

    def _flatten(self) -> list[list[Tensor]]:
        return [[buffer.reshape(-1) for buffer in group] for group in self._live]


class LossSavepoint:
    """The losses that the trainer shows. Holds references only: the trainer makes new tensors every batch.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: TrainerAdapter) -> None:
        self._trainer = trainer
        self._loss: Tensor | None = None
        self._mean: Any = None
        self._restart = False

    def commit(self) -> None:
        """Take the losses shown now as good. Does not synchronise."""
        self._loss = self._trainer.loss
        self._mean = self._trainer.running_loss

    def rollback(self) -> None:
        """Show the last good losses again; nan when the epoch has had no good batch so far. Does not synchronise.

        The loss that Ultralytics' own recovery looks at stays finite: what was handled must not trigger it.
        """
        trainer = self._trainer
        trainer.set_loss(trainer.loss.new_zeros(()) if self._loss is None else self._loss)
        if self._mean is not None:
            trainer.set_running_loss(self._mean)
            return
        trainer.set_running_loss(trainer.unknown_running_loss())
        self._restart = True  # the next batch starts a new mean

    def begin_epoch(self) -> None:
        """Note that the trainer starts a new mean."""
        self._mean = None
        self._restart = False

    def begin_batch(self) -> None:
        """Start the mean anew when the epoch has had no good batch so far."""
        if self._restart:
            self._trainer.set_running_loss(None)
            self._restart = False


class Savepoint:
    """Batch-norm statistics, other buffers and shown losses together. Commit and rollback may be called twice.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: TrainerAdapter) -> None:
        self._trainer = trainer
        self.losses = LossSavepoint(trainer)
        self.follow_model()

    def follow_model(self) -> None:
        """Keep the buffers that the model has now, and take them as good."""
        self.buffers = BufferSavepoint(*_split(self._trainer.guarded_buffers()))

    def observe(self) -> Tensor:
        """Look at the live buffers; see ``BufferSavepoint.observe``."""
        return self.buffers.observe()

    def buffers_finite(self) -> bool:
        """Whether every batch-norm statistic, and every other buffer, is finite. Synchronises."""
        return self.buffers.finite()

    def commit(self) -> None:
        """Take buffers, as they were observed, and losses as good."""
        self.buffers.commit()
        self.losses.commit()

    def rollback(self) -> None:
        """Put buffers and losses back to what was good."""
        self.buffers.rollback()
        self.losses.rollback()

    def renew(self) -> None:
        """Take the live buffers as good: they were put there from a snapshot, or by Ultralytics' own recovery."""
        self.buffers.observe()
        self.buffers.commit()

    def settle(self, outcome: Outcome) -> None:
        """Commit or roll back what a step has changed, as its outcome says."""
        for part, settle in ((self.buffers, outcome.statistics), (self.losses, outcome.losses)):
            if settle is Settle.COMMIT:
                part.commit()
            elif settle is Settle.ROLLBACK:
                part.rollback()


def _split(named: Sequence[tuple[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Tell the buffers of batch norms from others."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, buffer in named:
        parts[not (is_statistic(name) or name.endswith("num_batches_tracked"))].append(buffer)
    return parts
