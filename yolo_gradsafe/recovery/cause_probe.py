"""The differential diagnosis: what would this batch do under other weights, or in another precision?

A NaN or a high loss may come from the data, from the precision or from the weights, and each wants another remedy. From
the outside they look the same. Run on the same batch they do not: weights that have diverged fail where the trusted
ones do not, bad data fail under both, an fp16 overflow is gone in fp32, and what does not fail again was transient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.forensics.samples import pixel_faults
from yolo_gradsafe.judge.loss_trend import EXCESS
from yolo_gradsafe.recovery.snapshot import Snapshot
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["CauseProbe"]


class CauseProbe:
    """Runs a batch again, beside the training, and leaves no trace. Slow, hence for bad steps only. Collective.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: TrainerAdapter) -> None:
        self._trainer = trainer

    def loss(self, batch: Any, precision: str, weights: Snapshot | None = None, backward: bool = True) -> float:
        """Run the batch forward and, if asked, backward.

        Args:
            batch: The preprocessed batch, as the trainer used it.
            precision: ``fp32``, ``fp16`` or ``bf16``.
            weights: Weights and buffers to do it with; the live ones without.
            backward: Compute the gradients, too.

        Returns:
            The largest loss of all ranks; nan where a loss or, if asked for, a gradient is not finite on one of them.
        """
        scale = float(self._trainer.amp_scale)
        with self._with(weights):
            seen = self._trainer.replay(scale).run(batch, precision, backward)
        failed, loss = self._trainer.ranks.all_reduce_max([not seen.finite, seen.total if seen.loss_finite else 0.0])
        return math.nan if failed else loss

    def cause(self, batch: Any, trusted: Snapshot | None, usual_loss: float) -> Cause:
        """Find where a step that was not finite comes from.

        Args:
            batch: The preprocessed batch.
            trusted: Weights that were good not long ago.
            usual_loss: Loss of a whole batch that is usual; nan when unknown.
        """
        trainer = self._trainer
        if trainer.ranks.all_reduce_max([bool(pixel_faults(batch))])[0]:
            return Cause.DATA
        precision = trainer.forward_precision
        [usual_loss] = trainer.ranks.all_reduce_max([usual_loss])
        if math.isfinite(self.loss(batch, precision)):
            return Cause.TRANSIENT
        full = self.loss(batch, "fp32") if precision != "fp32" else math.nan
        if math.isfinite(full) and not full > EXCESS * usual_loss:
            return Cause.PRECISION
        if trusted is not None and math.isfinite(self.loss(batch, precision, trusted)):
            return Cause.WEIGHTS
        return Cause.PRECISION if math.isfinite(full) else Cause.DATA

    def trusted_do_better(self, batch: Any, trusted: Snapshot) -> bool:
        """Whether weights that were good not long ago do several times better on this batch than the live ones."""
        precision = self._trainer.forward_precision
        now = self.loss(batch, precision, backward=False)
        then = self.loss(batch, precision, trusted, backward=False)
        return math.isfinite(then) and (math.isnan(now) or now > EXCESS * then)

    @contextmanager
    def _with(self, weights: Snapshot | None) -> Iterator[None]:
        """Put other weights and buffers in the live ones' place, and theirs back."""
        if weights is None:
            yield
            return
        live = self._trainer.state.model()
        kept = {name: tensor.clone() for name, tensor in live.items()}
        try:
            weights.restore(live)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in live.items():
                    tensor.copy_(kept[name])
