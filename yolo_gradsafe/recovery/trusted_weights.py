"""What weights that were good not long ago would do, beside the training and without a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.adapter.device_memory import out_of_memory
from yolo_gradsafe.forensics.fitting import run_fitting
from yolo_gradsafe.judge.loss_trend import EXCESS, far_above
from yolo_gradsafe.recovery.snapshot import Snapshot

__all__ = ["in_place", "trusted_do_better"]


@contextmanager
def in_place(trainer: TrainerAdapter, weights: Snapshot) -> Iterator[None]:
    """Put a snapshot's weights and buffers in the live ones' place for the length of the body, and theirs back.

    Args:
        trainer: The trainer. A copy of its weights lies in host memory meanwhile: on the device there may be no room.
        weights: The snapshot.
    """
    live = trainer.state.model()
    kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in live.items()}
    try:
        weights.restore(live)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(kept[name])


def trusted_do_better(trainer: TrainerAdapter, batch: Any, trusted: Snapshot, times: float = EXCESS) -> bool:
    """Whether the loss of a batch is so many times as high as under weights that were good not long ago.

    Slow, hence for suspicious steps only. Collective, one message. Where there is no memory for it, the answer is no.

    Args:
        trainer: The trainer.
        batch: The preprocessed batch, as the trainer used it.
        trusted: The weights.
        times: What the loss has to exceed, in units of that under those weights.
    """
    unknown, now, then = 0.0, 0.0, 0.0
    try:
        with trainer.memory.borrowed():
            now, then = _losses(trainer, batch, trusted)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        unknown = 1.0
    unknown, now, then = trainer.ranks.all_reduce_max([unknown, now, then])
    return not unknown and math.isfinite(then) and far_above(now, then, times)


def _losses(trainer: TrainerAdapter, batch: Any, trusted: Snapshot) -> tuple[float, float]:
    """Return this rank's losses under the live and under the trusted weights, inf where one is not finite.

    Both in the same parts of the batch: each part has batch-norm statistics of its own.
    """
    replay, precision = trainer.replay(), trainer.forward_precision
    now = run_fitting(replay, batch, precision)
    with in_place(trainer, trusted):
        then = run_fitting(replay, batch, precision, parts=now.parts)
    if then.parts != now.parts:
        now = run_fitting(replay, batch, precision, parts=then.parts)
    live, good = (seen.level if seen.loss_finite else math.inf for seen in (now, then))
    return live, good
