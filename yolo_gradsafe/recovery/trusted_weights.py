"""What weights that were good not long ago would do, beside the training and without a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.judge.loss_trend import far_above
from yolo_gradsafe.recovery.snapshot import Snapshot

__all__ = ["in_place", "trusted_do_better"]


@contextmanager
def in_place(trainer: TrainerAdapter, weights: Snapshot) -> Iterator[None]:
    """Put a snapshot's weights and buffers in the live ones' place for the length of the body, and theirs back.

    Args:
        trainer: The trainer. Takes memory for a copy of its weights meanwhile.
        weights: The snapshot.
    """
    live = trainer.state.model()
    kept = {name: tensor.clone() for name, tensor in live.items()}
    try:
        weights.restore(live)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(kept[name])


def trusted_do_better(trainer: TrainerAdapter, batch: Any, trusted: Snapshot) -> bool:
    """Whether weights that were good not long ago do several times better on this batch than the live ones.

    Slow, hence for suspicious steps only. Collective. Where there is no memory for it, the answer is no.

    Args:
        trainer: The trainer.
        batch: The preprocessed batch, as the trainer used it.
        trusted: The weights.
    """
    now = _worst_loss(trainer, batch)
    then = _worst_loss(trainer, batch, trusted)
    return math.isfinite(then) and far_above(now, then)


def _worst_loss(trainer: TrainerAdapter, batch: Any, weights: Snapshot | None = None) -> float:
    """Return the largest loss of all ranks: inf where one is not finite, nan where there is no memory on one."""
    unknown = loss = 0.0
    try:
        with nullcontext() if weights is None else in_place(trainer, weights):
            seen = trainer.replay().run(batch, trainer.forward_precision)
        loss = seen.total if seen.loss_finite else math.inf
    except torch.OutOfMemoryError:
        unknown = 1.0
    unknown, loss = trainer.ranks.all_reduce_max([unknown, loss])
    return math.nan if unknown else loss
