"""The parts of an optimizer step, in stock's own order and arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.torch_utils import unwrap_model

from yolo_gradsafe.adapter.trainer_info import outside_parameters

__all__ = ["Stepping"]


class Stepping:
    """The part of a ``TrainerAdapter`` that calls optimizer, GradScaler and EMA."""

    trainer: Any
    _one: Tensor

    def unscale(self) -> None:
        """Divide the gradients by the AMP scale; nothing without a GradScaler. Does not synchronise."""
        self.trainer.scaler.unscale_(self.trainer.optimizer)

    def apply(self, finite: bool | None = None, lr_factor: float = 1.0, scale: float | None = None) -> None:
        """Finish the step as stock does: step, update the scale, zero the gradients, update the EMA.

        Args:
            finite: Whether the unscaled gradients are finite, if the caller knows. ``GradScaler.step`` would read just
                that from the device, unless the optimizer is fused and takes it there: the read is saved.
            lr_factor: What the learning rate is multiplied with for this step.
            scale: AMP scale to go on with; None leaves it to GradScaler.
        """
        trainer = self.trainer
        fused = getattr(trainer.optimizer, "_step_supports_amp_scaling", False)
        with self.lr_times(lr_factor):
            if finite is None or fused or not trainer.scaler.is_enabled():
                trainer.scaler.step(trainer.optimizer)
            elif finite:
                trainer.optimizer.step()
        trainer.scaler.update(scale)
        trainer.optimizer.zero_grad()
        if trainer.ema:
            trainer.ema.update(trainer.model)

    @contextmanager
    def lr_times(self, factor: float) -> Iterator[None]:
        """Multiply the learning rate of every group for the length of the body, which may add groups."""
        if factor == 1.0:
            yield
            return
        groups = list(self.trainer.optimizer.param_groups)
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def clip_as_stock(self) -> None:
        """Clip as stock does, for a step that the plugin could not assess."""
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), max_norm=10.0)

    def skip(self, amp_scale: float) -> None:
        """Give up a step whose gradients were unscaled: neither weights nor EMA learn of it.

        Args:
            amp_scale: AMP scale to go on with.
        """
        self.trainer.scaler.update(amp_scale)
        self.trainer.optimizer.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients that have gathered."""
        self.trainer.optimizer.zero_grad()

    def gradients(self) -> dict[nn.Parameter, Tensor]:
        """Return the gradients as they have gathered so far, by parameter; of all that the optimizer holds, too."""
        model = unwrap_model(self.trainer.model)
        held = [p for _, p in outside_parameters(model, self.trainer.optimizer)]
        return {p: p.grad for p in [*model.parameters(), *held] if p.grad is not None}

    def stop(self) -> None:
        """End the training as early stopping does, after the batch under way."""
        self.trainer.stop = True

    @property
    def scale_backoff(self) -> float:
        """What GradScaler multiplies its scale with after an overflow."""
        return float(self.trainer.scaler.get_backoff_factor()) if self.scaler_enabled else 1.0

    @property
    def scaler_enabled(self) -> bool:
        """Whether a GradScaler scales the loss."""
        return bool(self.trainer.scaler.is_enabled())

    @property
    def amp_scale(self) -> Tensor:
        """Loss scale of the GradScaler, 0-d on its device; 1 without one. Does not synchronise."""
        scaler = self.trainer.scaler
        scale = scaler._get_scale_async() if scaler.is_enabled() else None
        return self._one if scale is None else scale.detach()

    @property
    def precision(self) -> str:
        """Precision of the forward pass: ``fp32``, ``fp16`` or ``bf16``."""
        if str(self.trainer.args.amp) == "bf16":
            return "bf16"
        return "fp16" if self.scaler_enabled else "fp32"
