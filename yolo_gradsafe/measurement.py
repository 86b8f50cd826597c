"""The measuring part of a step: everything that is judged, read from the device at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.adapter.device_memory import second_try
from yolo_gradsafe.gradients.layer_groups import LayerGroups
from yolo_gradsafe.gradients.norms import GradientMeter, Gradients, scaled_norm
from yolo_gradsafe.gradients.update_ratio import UpdateRatioSampler
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.judge.batchnorm import BatchNormMonitor
from yolo_gradsafe.judge.verdict import BatchNormHealth, StepMetrics
from yolo_gradsafe.recovery.savepoint import Savepoint

__all__ = ["Measurement"]


class Measurement:
    """Measures the gradients that wait for the step, and what goes with them.

    Args:
        trainer: The trainer.
        window: The micro-batches that the step is made of.
        groups: Which parameters are a layer, which layers a stage.
        savepoint: Gathers the buffers; they are looked at with the gradients.
        monitor: Knows how large their norm usually is.
        updates: Samples the weights.
    """

    def __init__(
        self,
        trainer: TrainerAdapter,
        window: AccumulationWindow,
        groups: LayerGroups,
        savepoint: Savepoint,
        monitor: BatchNormMonitor,
        updates: UpdateRatioSampler,
    ) -> None:
        self.trainer = trainer
        self.window = window
        self.groups = groups
        self.updates = updates
        self.savepoint = savepoint
        self._monitor = monitor
        self._bind()

    def follow_model(self) -> bool:
        """Measure the tensors that the model has now, where it or the optimizer has others than before.

        A callback of the user may replace a layer, after the guard's own has run.

        Returns:
            Whether it is another model: a parameter is new or gone, or a tensor has taken another's place.
        """
        trainer, parameters, buffers = self.trainer, self._parameters, self._buffers
        if (
            _same(parameters, trainer.named_parameters())
            and _same(buffers, trainer.named_buffers())
            and _same(self._outside, trainer.outside_parameters())
        ):
            return False
        trainer.state.note_unbounded()
        self.savepoint.follow_model()
        self._bind()
        left = dict(self._buffers)
        another = not _same(parameters, self._parameters) or any(left.get(name) is not b for name, b in buffers)
        if another:
            self.groups.regroup([name for name, _ in self._parameters], trainer.layout)
            self.updates.follow(self._parameters)
        return another

    def _bind(self) -> None:
        trainer = self.trainer
        self._parameters, self._buffers = trainer.named_parameters(), trainer.named_buffers()
        self._outside = trainer.outside_parameters()
        self._meter = GradientMeter(self._parameters)

    def measure(
        self, step: int, unscaled: bool, piggyback: Sequence[float] = ()
    ) -> tuple[StepMetrics, Gradients, list[float]]:
        """Read gradients, losses, statistics, loss scale and a sample of the weights. Synchronises, once.

        Collective: one message, the only one of a healthy step.

        Args:
            step: Number of the step.
            unscaled: Whether the gradients are unscaled by now.
            piggyback: Numbers to tell the other ranks with it.

        Returns:
            The metrics, the gradients where they lie, and the largest of each piggyback number over the ranks.
        """
        with self.trainer.ranks.collective(closing=False):
            metrics, gradients = second_try(partial(self._read, step, unscaled))
        metrics, agreed = self._over_ranks(metrics, piggyback)
        return self._true_norm(metrics, gradients, unscaled), gradients, agreed

    def gathered(self) -> tuple[float, float]:
        """Return the norm of the gradients that wait for a step, as far as they have gathered, and the loss scale.

        Synchronises, once. The gradients are this rank's, and those of all ranks where each backward pass averages.
        """
        scale = self.trainer.amp_scale
        _, reading = self._meter.measure([scale], scale)
        return reading.norm, reading.scalars[0]

    def _read(self, step: int, unscaled: bool) -> tuple[StepMetrics, Gradients]:
        """Read what this rank knows of the step. May be called again."""
        trainer, window = self.trainer, self.window
        window.set_loss(trainer.loss)
        names, items = trainer.loss_items()
        losses = window.losses or [trainer.loss]
        scale = trainer.amp_scale
        outside = {name: p.grad for name, p in self._outside if p.grad is not None}
        more = torch._foreach_norm(list(outside.values())) if outside else ()
        gradients, reading = self._meter.measure(
            [self.savepoint.observe(), scale, *losses, *items, *more],
            None if unscaled else scale,
            self.updates.sample(step),
        )
        batchnorm_norm, amp_scale, *values = reading.scalars
        values, rest = values[: len(losses)], values[len(losses) :]
        update_ratio, layer_update_ratios = self.updates.read(reading.sample)
        layer_norms, stage_norms = self.groups.norms(gradients.names, reading.tensor_norms)
        bad_tensors = [] if math.isfinite(reading.norm) else _not_finite(_by_name(gradients), reading.tensor_norms)
        bad_tensors += _not_finite(outside, rest[len(rest) - len(outside) :])
        lr_share, lr_peak = trainer.lr_share_and_peak()
        metrics = StepMetrics(
            epoch=trainer.epoch,
            step=step,
            batch=window.newest,
            lr=trainer.lr,
            lr_share=lr_share,
            lr_peak=lr_peak,
            losses=values,
            items=dict(zip(names, rest, strict=False)),
            images=window.newest_size,
            image_loss=self._image_loss(values),
            grad_norm=reading.norm,
            losses_finite=all(map(math.isfinite, values)),
            grads_finite=not bad_tensors,
            batchnorm=self._batchnorm_health(batchnorm_norm),
            scaler=trainer.scaler_enabled,
            amp_scale=amp_scale,
            bad_tensors=bad_tensors,
            tensor_norms=reading.tensor_norms,
            layer_norms=layer_norms,
            stage_norms=stage_norms,
            batchnorm_norm=batchnorm_norm,
            update_ratio=update_ratio,
            update_rate=self.updates.rate,
            layer_update_ratios=layer_update_ratios,
        )
        return metrics, gradients

    def _over_ranks(self, local: StepMetrics, piggyback: Sequence[float]) -> tuple[StepMetrics, list[float]]:
        """Return what holds on all ranks: one message; what a rank by itself knows holds."""
        trainer = self.trainer
        if not trainer.ranks.several:
            return local, list(piggyback)
        losses_bad, grads_bad, batchnorm, image_loss, ratio, most, least, *agreed = trainer.ranks.all_reduce_max(
            [
                not local.losses_finite,
                not local.grads_finite,
                local.batchnorm,
                local.image_loss,
                0.0 if math.isnan(local.update_ratio) else local.update_ratio,
                local.amp_scale,
                -local.amp_scale,
                *piggyback,
            ]
        )
        # Gradients that were scaled differently were added up: nothing can be made of them.
        scales_differ = most != -least
        metrics = replace(
            local,
            losses_finite=not losses_bad,
            grads_finite=not grads_bad and not scales_differ,
            batchnorm=BatchNormHealth(int(batchnorm)),
            image_loss=image_loss,
            update_ratio=ratio or math.nan,
            amp_scale=0.0 if scales_differ else most,
        )
        return metrics, agreed

    def _true_norm(self, metrics: StepMetrics, gradients: Gradients, unscaled: bool) -> StepMetrics:
        """Measure again, by other means, a norm whose squares overflow fp32; every other is left as it is."""
        if not metrics.grads_finite or math.isfinite(metrics.grad_norm):
            return metrics
        peak, relative = scaled_norm(gradients.tensors)
        norm = peak * relative / (1.0 if unscaled else metrics.amp_scale)
        return replace(metrics, grad_norm=norm, norm_overflow=True)

    def _image_loss(self, losses: Sequence[float]) -> float:
        images = self.window.images_kept
        return sum(losses) / images if images and all(map(math.isfinite, losses)) else 0.0

    def _batchnorm_health(self, norm: float) -> BatchNormHealth:
        if self._monitor.is_blown_up(norm):
            return BatchNormHealth.BLOWN_UP if math.isfinite(norm) else BatchNormHealth.NOT_FINITE
        # A norm may overflow although every element is finite.
        sound = math.isfinite(norm) or self.savepoint.buffers_finite()
        return BatchNormHealth.SOUND if sound else BatchNormHealth.NOT_FINITE


def _same(one: Sequence[tuple[str, Tensor]], other: Sequence[tuple[str, Tensor]]) -> bool:
    """Whether two lists are of the same tensors, by the same names."""
    return len(one) == len(other) and all(a[0] == b[0] and a[1] is b[1] for a, b in zip(one, other, strict=True))


def _by_name(gradients: Gradients) -> dict[str, Tensor]:
    return dict(zip(gradients.names, gradients.tensors, strict=True))


def _not_finite(gradients: Mapping[str, Tensor], norms: Sequence[float]) -> list[str]:
    """Name the gradients with a non-finite element; only where a norm is not finite it reads the device, once."""
    suspects = [name for name, norm in zip(gradients, norms, strict=True) if not math.isfinite(norm)]
    if not suspects:
        return []
    finite = torch.stack([gradients[name].isfinite().all() for name in suspects]).tolist()
    return [name for name, good in zip(suspects, finite, strict=True) if not good]
