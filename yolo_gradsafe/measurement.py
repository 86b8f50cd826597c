"""The measuring part of a step: everything that is judged, read from the device at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.gradients.norms import Gradients, Meter, Reading
from yolo_gradsafe.gradients.update_ratio import UpdateRatioSampler
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.judge.batchnorm import BatchNormMonitor
from yolo_gradsafe.judge.verdict import StepMetrics
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow

__all__ = ["Measurement", "Measurer"]

_BLOWN_UP, _NOT_FINITE = 1.0, 2.0
"""How bad batch-norm statistics are; 0 when they are sound."""


@dataclass(frozen=True)
class Measurement:
    """What is known of a step before it is judged."""

    sample: StepMetrics
    gradients: Gradients
    tensor_norms: list[float]
    """L2 norms of the unscaled gradients before clipping, in the order of ``gradients``."""
    bad_tensors: list[str]
    """Parameters whose gradient is not finite."""
    statistics_finite: bool
    """Whether the norm of the batch-norm statistics is finite, on every rank."""
    riding: list[float]
    """The largest, over the ranks, of the numbers that rode along."""
    update_ratios: NDArray[np.float64] | None
    """Update-to-weight ratio of each layer in an earlier step, when a sample has just become known."""


class Measurer:
    """Measures the gradients that wait for the step, and what goes with them.

    Args:
        host: The trainer.
        window: The micro-batches that the step is made of.
        batchnorm: The copy of the batch-norm statistics; looked at with the gradients.
        statistics: Knows how large their norm usually is.
        updates: Samples of weights that wait to be read.
    """

    def __init__(
        self,
        host: Host,
        window: AccumulationWindow,
        batchnorm: BatchNormShadow,
        statistics: BatchNormMonitor,
        updates: UpdateRatioSampler,
    ) -> None:
        self._host = host
        self._window = window
        self._batchnorm = batchnorm
        self._statistics = statistics
        self._updates = updates
        self._meter = Meter(host.named_parameters())

    def measure(self, step: int, unscaled: bool, riding: Sequence[float] = ()) -> Measurement:
        """Read gradients, losses, statistics, loss scale and waiting samples. Synchronises, once.

        Collective: one message, the only one of a healthy step.

        Args:
            step: Number of the step.
            unscaled: Whether the gradients are unscaled by now.
            riding: Numbers to tell the other ranks with it.
        """
        host = self._host
        with host.ranks.together(closing=False):
            names, items = host.loss_items()
            losses = torch.stack([loss.reshape(()) for loss in self._window.losses(host.loss)])
            scale = host.amp_scale
            waiting = self._updates.take()
            gradients, reading = self._meter.measure(
                [self._batchnorm.look(), scale, losses, items, *waiting], None if unscaled else scale
            )
            statistics_norm, amp_scale, *values = reading.scalars
            values, rest = values[: len(losses)], values[len(losses) :]
            bad_tensors = _bad_tensors(gradients, reading)
            ratios = self._updates.ratios(rest[len(names) :]) if waiting else None
            facts = self._facts(values, bad_tensors, statistics_norm)
        losses_bad, grads_bad, buffers_bad, image_loss, most, least, *agreed = host.largest(
            [*facts, amp_scale, -amp_scale, *riding]
        )
        if host.ranks.several and most != -least:  # gradients of different scales were added up
            grads_bad, amp_scale = 1.0, 0.0
        sample = StepMetrics(
            epoch=host.epoch,
            step=step,
            batch=self._window.newest,
            lr=host.lr,
            losses=values,
            items=dict(zip(names, rest, strict=False)),
            images=self._window.newest_size,
            image_loss=image_loss,
            grad_norm=reading.norm,
            losses_finite=not losses_bad,
            grads_finite=not grads_bad,
            buffers_sound=not buffers_bad,
            scaler=host.scaler_enabled,
            amp_scale=amp_scale,
        )
        return Measurement(
            sample, gradients, reading.tensor_norms, bad_tensors, buffers_bad <= _BLOWN_UP, agreed, ratios
        )

    def _facts(
        self, losses: Sequence[float], bad_tensors: Sequence[str], statistics_norm: float
    ) -> tuple[float, float, float, float]:
        """Return whether losses, gradients and statistics are bad on this rank, and the loss an image."""
        finite, images = all(map(math.isfinite, losses)), self._window.images_kept
        blown_up = self._statistics.blown_up(statistics_norm)
        sound = not blown_up and (math.isfinite(statistics_norm) or self._batchnorm.finite())
        badness = 0.0 if sound else _BLOWN_UP if math.isfinite(statistics_norm) else _NOT_FINITE
        image_loss = sum(losses) / images if finite and images else 0.0
        return not finite, bool(bad_tensors), badness, image_loss


def _bad_tensors(gradients: Gradients, reading: Reading) -> list[str]:
    """Name the gradients with a non-finite element; costs something only when the norm is not finite."""
    if math.isfinite(reading.norm):
        return []
    suspects = [i for i, norm in enumerate(reading.tensor_norms) if not math.isfinite(norm)]
    return [gradients.names[i] for i in suspects if not bool(gradients.tensors[i].isfinite().all())]
