"""How far a step moves the weights, from a sample of them.

The update-to-weight ratio tells a learning rate that is too high (well above 1e-2) or too low (well below 1e-4) from
one that fits. A copy of all weights would cost their memory; a few elements of each tensor tell the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yolo_gradsafe.gradients.layer_groups import LayerGroups

__all__ = ["UNKNOWN_UPDATE", "Update", "UpdateRatioSampler"]

_ELEMENTS = 64
"""Elements sampled of each tensor, from its middle on: next to each other, so that one kernel takes all tensors.
Matrices of fewer elements do not take part in the median."""
_TINY = 1e-12
_FEWEST = 8
"""Matrices whose median stands for a model,"""
_MOST = 32
"""and as many as are looked at in every step."""


@dataclass(frozen=True)
class Update:
    """How far the last step that was taken has moved the weights."""

    ratio: float = math.nan
    """L2 norm of its change over that of the weights, the median of weight matrices (convolutions, linear layers) that
    it moved, from all over the model; nan when it moved none, or when there are too few for a median."""
    rate: float = 1.0
    """Learning rate of that step as a share of the schedule's largest, the guard's own factor included; above 0."""

    @property
    def at_peak(self) -> float:
        """The ratio that the schedule's largest learning rate would come to: steps are proportional to the rate."""
        return self.ratio / self.rate


UNKNOWN_UPDATE = Update()


class UpdateRatioSampler:
    """Samples the weights before and after a step: some matrices of every step, all tensors of one in so many.

    Nothing here synchronises: what is found stays on the device, to be read with the next step's numbers.

    Args:
        parameters: Named parameters of the model; they are only ever written in place.
        grouping: Which of them are a layer.
        every: Sample all tensors of one step in so many, for the ratio of each layer; 0 for none.
        boundary: Contains a fault of the sampler.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        grouping: LayerGroups,
        every: int,
        boundary: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        named = list(parameters)
        self._names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        self._matrices = _spread(_alike([p for p in self._parameters if p.ndim > 1 and p.numel() >= _ELEMENTS]))
        self._grouping = grouping
        self._every = every
        self._boundary = boundary
        shares = [p.numel() / min(p.numel(), _ELEMENTS) for p in self._parameters]
        self._weight = np.sqrt(np.array(shares))
        self._live: list[Tensor] = []
        self._before: Tensor | None = None
        self._all_live: list[Tensor] = []
        self._all_before: list[Tensor] = []
        self._rate = 1.0
        self._waiting: list[Tensor] = []

    @contextmanager
    def sampling(self, step: int, taken: bool, rate: float = 1.0) -> Iterator[None]:
        """Note how far a step moves the weights. A fault of ours stays ours.

        Args:
            step: Number of the step that the body takes.
            taken: Whether the body calls the optimizer.
            rate: ``Update.rate`` of the step.
        """
        sampled = False
        if taken:
            with self._boundary("sample the updates"):
                self._sample(every_tensor=self._every > 0 and step % self._every == 0)
                sampled = True
        yield
        if sampled:
            with self._boundary("sample the updates"):
                self._waiting = self._compare()
                self._rate = max(rate, _TINY)

    def take(self) -> list[Tensor]:
        """Return the sample that waits to be read, if there is one, once.

        Returns:
            Nothing; or norms of the weights and of their changes, fp32: those of the matrices, shape (2 * matrices,),
            and after them, where all tensors were sampled, theirs, shape (2 * tensors,).
        """
        waiting, self._waiting = self._waiting, []
        return waiting

    def read(self, values: Sequence[float]) -> tuple[Update, NDArray[np.float64] | None]:
        """Turn the values of what ``take`` returned into numbers.

        Returns:
            The update, and the ratio of each layer, nan where its weights are zero; None where it was not sampled.
        """
        if not values:
            return UNKNOWN_UPDATE, None
        count = 2 * len(self._matrices)
        weights, changes = np.split(np.asarray(values[:count], dtype=np.float64), 2)
        layers = self._by_layer(values[count:]) if len(values) > count else None
        return Update(_median(weights, changes), self._rate), layers

    def _by_layer(self, values: Sequence[float]) -> NDArray[np.float64]:
        weights, changes = np.split(np.asarray(values, dtype=np.float64), 2)
        change, _ = self._grouping.norms(self._names, list(changes * self._weight))
        weight, _ = self._grouping.norms(self._names, list(weights * self._weight))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(weight > 0, change / weight, np.nan)

    @torch.no_grad()
    def _sample(self, every_tensor: bool) -> None:
        """Copy the elements before a step: one launch for the matrices, one more for all tensors."""
        if self._matrices:
            self._live = self._live or [_middle(matrix) for matrix in self._matrices]
            self._before = torch.cat(self._live)
        if every_tensor:
            self._all_live = self._all_live or [_middle(parameter) for parameter in self._parameters]
            self._all_before = list(torch._foreach_mul(self._all_live, 1.0))

    @torch.no_grad()
    def _compare(self) -> list[Tensor]:
        """Return what ``take`` returns; the copies are let go."""
        found = []
        if self._before is not None:
            both = (self._before, torch.cat(self._live) - self._before)
            self._before = None
            found += [torch.linalg.vector_norm(e.view(-1, _ELEMENTS), dim=1, dtype=torch.float32) for e in both]
        if self._all_before:
            changes = torch._foreach_norm(torch._foreach_sub(self._all_live, self._all_before))
            found.append(torch.stack([*torch._foreach_norm(self._all_before), *changes]).float())
            self._all_before = []
        return found


def _median(weights: NDArray[np.float64], changes: NDArray[np.float64]) -> float:
    """Return the median ratio of those that moved; nan where there are too few matrices for one."""
    if len(weights) < _FEWEST:
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = changes / weights
    ratios = np.sort(ratios[(changes > 0) & ~np.isnan(ratios)])
    return float(ratios[(len(ratios) - 1) // 2]) if len(ratios) else math.nan


def _alike(matrices: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return those of one dtype and device, that of the first: they are looked at together."""
    return [m for m in matrices if (m.dtype, m.device) == (matrices[0].dtype, matrices[0].device)]


def _spread(matrices: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return at most ``_MOST`` of them, from all over the model."""
    return matrices[:: math.ceil(len(matrices) / _MOST) or 1]


def _middle(parameter: nn.Parameter) -> Tensor:
    """Return some elements of a parameter's storage, shape (elements,), as a view; any memory format will do."""
    whole, count = parameter.detach(), min(parameter.numel(), _ELEMENTS)
    start = whole.storage_offset() + (whole.numel() - count) // 2
    return torch.as_strided(whole, (count,), (1,), start)
