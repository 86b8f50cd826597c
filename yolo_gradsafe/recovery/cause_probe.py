"""The differential diagnosis: what would this batch do under other weights, or in another precision?

A NaN or a high loss may come from the data, from the precision or from the weights, and each wants another remedy. From
the outside they look the same. Run on the same batch they do not: weights that have diverged fail where the trusted
ones do not, bad data fail under both, an fp16 overflow is gone in fp32, and what does not fail again was transient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.forensics.samples import pixel_faults
from yolo_gradsafe.judge.loss_trend import EXCESS
from yolo_gradsafe.recovery.snapshot import Snapshot

__all__ = ["Cause", "CauseProbe", "ReplayResult_"]


class Cause(str, Enum):
    """Where a fault comes from."""

    DATA = "data"
    """The batch fails under trusted weights in full precision, too."""
    PRECISION = "precision"
    """The batch is fine in full precision."""
    WEIGHTS = "weights"
    """The batch is fine under trusted weights."""
    TRANSIENT = "transient"
    """The batch does not fail again."""
    UNKNOWN = "unknown"
    """It could not be looked into."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ReplayResult_:
    """What a batch did."""

    loss: float
    finite: bool
    """Whether the loss and, if asked for, the gradients were finite, on every rank."""


class CauseProbe:
    """Runs a batch again, beside the training, and leaves no trace. Slow, hence for bad steps only. Collective.

    Args:
        host: The trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def run(self, batch: Any, precision: str, weights: Snapshot | None = None, backward: bool = True) -> ReplayResult_:
        """Run the batch forward and, if asked, backward.

        Args:
            batch: The preprocessed batch, as the trainer used it.
            precision: ``fp32``, ``fp16`` or ``bf16``.
            weights: Weights and buffers to do it with; the live ones without.
            backward: Compute the gradients, too.
        """
        scale = float(self._host.amp_scale)
        with self._with(weights):
            seen = self._host.replay(scale).run(batch, precision, backward)
        failed, loss = self._host.largest([float(not seen.finite), seen.total if seen.loss_finite else 0.0])
        return ReplayResult_(loss if not failed else math.nan, not failed)

    def cause(self, batch: Any, trusted: Snapshot | None, usual_loss: float) -> Cause:
        """Find where a step that was not finite comes from.

        Args:
            batch: The preprocessed batch.
            trusted: Weights that were good not long ago.
            usual_loss: Loss of a whole batch that is usual; nan when unknown.
        """
        host = self._host
        if host.largest([bool(pixel_faults(batch))])[0]:
            return Cause.DATA
        precision = host.forward_precision
        usual_loss = host.largest([usual_loss])[0]
        if self.run(batch, precision).finite:
            return Cause.TRANSIENT
        full = self.run(batch, "fp32") if precision != "fp32" else ReplayResult_(math.nan, False)
        if full.finite and not full.loss > EXCESS * usual_loss:
            return Cause.PRECISION
        if trusted is not None and self.run(batch, precision, trusted).finite:
            return Cause.WEIGHTS
        return Cause.PRECISION if full.finite else Cause.DATA

    def worse(self, batch: Any, trusted: Snapshot) -> bool:
        """Whether the live weights do several times worse on this batch than weights that were good not long ago."""
        precision = self._host.forward_precision
        now = self.run(batch, precision, backward=False)
        then = self.run(batch, precision, trusted, backward=False)
        return then.finite and (not now.finite or now.loss > EXCESS * then.loss)

    @contextmanager
    def _with(self, weights: Snapshot | None) -> Iterator[None]:
        """Put other weights and buffers in the live ones' place, and theirs back."""
        if weights is None:
            yield
            return
        live = self._host.state.model()
        kept = {name: tensor.clone() for name, tensor in live.items()}
        try:
            weights.restore(live)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in live.items():
                    tensor.copy_(kept[name])
