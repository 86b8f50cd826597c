"""One training step as stock takes it, on anything that can be trained: the unit of which the experiments are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yolo_gradsafe.gradients.layer_groups import LayerGroups, Layout
from yolo_gradsafe.gradients.update_ratio import UpdateRatioSampler

__all__ = ["STOCK_MAX_NORM", "Step", "Trainable", "train_step"]

STOCK_MAX_NORM = 10.0
"""Global L2 norm at which stock Ultralytics clips."""


class Trainable(Protocol):
    """What the experiments need of a trainer; ``ProbeTrainer`` is the real one."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are clipped together."""
        ...

    def forward(self) -> tuple[Tensor, int]:
        """Return the next batch's loss, summed over its images, and their number."""
        ...

    def set_lr(self, lr: float) -> None:
        """Set the learning rate."""
        ...

    def step(self) -> None:
        """Let the optimizer step, and drop the gradients."""
        ...

    def reset(self, seed: int) -> None:
        """Go back to the start: the same seed gives the same batches again."""
        ...

    def held_out_loss(self, images: int) -> float:
        """Return the mean loss of the first images that are not trained on."""
        ...


@dataclass(frozen=True)
class Step:
    """What one optimizer step showed."""

    loss: float
    """Mean loss an image."""
    norm: float
    """Global L2 norm of the gradients, before clipping."""
    images: int
    """Images that the gradients were summed over."""
    ratio: float = math.nan
    """How far the step moved the weights, as a share of their norm; nan where it is not known."""

    @property
    def finite(self) -> bool:
        """Whether loss and norm are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def train_step(trainer: Trainable, lr: float, batches: int = 1, max_norm: float = STOCK_MAX_NORM) -> Step:
    """Sum the gradients of some batches, clip them, and step: stock's step, without AMP and EMA.

    Args:
        trainer: What is trained.
        lr: Learning rate.
        batches: Batches to accumulate; like stock, their gradients are summed, not averaged.
        max_norm: Norm to clip at.

    Note:
        Synchronises three times.
    """
    trainer.set_lr(lr)
    losses, images = [], 0
    for _ in range(batches):
        loss, count = trainer.forward()
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        images += count
    norm = torch.nn.utils.clip_grad_norm_(trainer.parameters(), max_norm=max_norm)
    ratio = _step_and_measure(trainer)
    return Step(float(torch.stack(losses).sum()) / images, float(norm), images, ratio)


def _step_and_measure(trainer: Trainable) -> float:
    """Let the optimizer step; return how far that moved the weights, nan for a model without weight matrices."""
    named = [(str(i), p) for i, p in enumerate(trainer.parameters()) if p.requires_grad]
    if all(parameter.ndim < 2 for _, parameter in named):
        trainer.step()
        return math.nan
    layers = LayerGroups([name for name, _ in named], Layout(backbone=0, layers=0))
    sampler = UpdateRatioSampler(named, layers, every=0)
    sampler.read(_on_host(sampler.sample(0)))
    trainer.step()
    sampler.note_step(taken=True)
    return sampler.read(_on_host(sampler.sample(1)))[0]


def _on_host(elements: Tensor | None) -> NDArray[np.float32] | None:
    return None if elements is None else elements.float().numpy(force=True)
