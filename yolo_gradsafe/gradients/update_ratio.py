"""How far a step moves the weights, from a sample of them.

The update-to-weight ratio tells a learning rate that is too high (well above 1e-2) or too low (well below 1e-4) from
one that fits. A copy of all weights would cost their memory; a few elements of each tensor tell the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yolo_gradsafe.gradients.layer_groups import LayerGroups

__all__ = ["UpdateRatioSampler"]

_ELEMENTS = 64
"""Elements sampled of each tensor, from its middle on: next to each other, so that one kernel takes all tensors.
Matrices of fewer elements do not take part in the median."""
_TINY = 1e-12
_FEWEST = 8
"""Matrices whose median stands for a model,"""
_MOST = 32
"""and as many as are looked at in every step."""


class UpdateRatioSampler:
    """Compares elements of the weights before and after a step: of some matrices always, of all tensors now and then.

    The elements are read with the numbers of each step, before it is taken; so those after a step come with the next
    one's. Nothing is kept on the device.

    Args:
        parameters: Named parameters of the model; they are only ever written in place.
        grouping: Which of them are a layer.
        every: Sample all tensors of one step in so many, for the ratio of each layer; 0 for none.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], grouping: LayerGroups, every: int) -> None:
        self._grouping = grouping
        self._every = every
        self.rate = 1.0
        """Learning rate of the last step as a share of the schedule's largest, the guard's factor included; above 0."""
        self.follow(parameters)

    def follow(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Sample these parameters from now on; what was sampled of others is dropped."""
        named = [(name, parameter) for name, parameter in parameters if parameter.numel()]
        self._names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        self._matrices = _spread(_alike([p for p in self._parameters if p.ndim > 1 and p.numel() >= _ELEMENTS]))
        counts = [min(p.numel(), _ELEMENTS) for p in self._parameters]
        self._starts = np.cumsum([0, *counts[:-1]])
        self._shares = np.array([p.numel() for p in self._parameters]) / np.array(counts)
        self._live: list[Tensor] = []
        self._all_live: list[Tensor] = []
        self._now: NDArray[np.float32] | None = None
        self._before: NDArray[np.float32] | None = None
        self._due = self._was_due = False
        self._version = 0

    @torch.no_grad()
    def sample(self, step: int) -> Tensor | None:
        """Gather the elements before a step. One launch; does not synchronise.

        Args:
            step: Number of the step.

        Returns:
            Elements, on the weights' device, shape (64 * matrices,), and behind them those of all tensors when they
            are due, before a step in so many and after it; None where there is nothing to sample.
        """
        self._live = self._live or [_middle(matrix) for matrix in self._matrices]
        self._due = self._every > 0 and step % self._every == 0
        if self._due or self._was_due:
            self._all_live = self._all_live or [_middle(parameter) for parameter in self._parameters]
            return torch.cat([*self._live, *self._all_live])
        return torch.cat(self._live) if self._live else None

    def read(self, elements: NDArray[np.float32] | None) -> tuple[float, NDArray[np.float64] | None]:
        """Compare elements with those before the last step.

        Args:
            elements: What ``sample`` returned, on the host.

        Returns:
            L2 norm of the last step's change over that of the weights, the median of weight matrices (convolutions,
            linear layers) that it moved, from all over the model: nan when it moved none, when there are too few for a
            median, and when somebody else has changed the weights since. And the ratio of each layer, nan where its
            weights are zero; None where not all tensors were sampled.
        """
        self._now = elements
        before, count = self._before, len(self._matrices) * _ELEMENTS
        if elements is None or before is None or self._version != self._versions():
            return math.nan, None
        with np.errstate(invalid="ignore", over="ignore"):
            changes = elements[: len(before)] - before[: len(elements)]
            ratio = _median(before[:count], changes[:count])
        return ratio, self._by_layer(before[count:], changes[count:]) if self._was_due else None

    def note_step(self, taken: bool, rate: float = 1.0) -> None:
        """Note that a step is over.

        Args:
            taken: Whether the optimizer was called.
            rate: Its learning rate as a share of the largest of its schedule.
        """
        self._before, self._was_due = (self._now, self._due) if taken else (None, False)
        self.rate, self._version = max(rate, _TINY), self._versions()

    def _by_layer(self, weights: NDArray[np.float32], changes: NDArray[np.float32]) -> NDArray[np.float64]:
        change, _ = self._grouping.norms(self._names, self._norms(changes))
        weight, _ = self._grouping.norms(self._names, self._norms(weights))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(weight > 0, change / weight, np.nan)

    def _norms(self, elements: NDArray[np.float32]) -> list[float]:
        """Return the norm of each whole tensor, as far as its elements tell."""
        squares: NDArray[np.float64] = np.add.reduceat(np.square(elements, dtype=np.float64), self._starts)
        squares *= self._shares
        return list(np.sqrt(squares))

    def _versions(self) -> int:
        """Return how often some of the matrices have been written to; ``.data`` goes past that count."""
        return sum(matrix._version for matrix in self._matrices[:: _MOST // 2])


def _median(weights: NDArray[np.float32], changes: NDArray[np.float32]) -> float:
    """Return the median ratio of those that moved; nan where there are too few matrices for one."""
    if len(weights) < _FEWEST * _ELEMENTS:
        return math.nan
    pairs = zip(_squares(weights), _squares(changes), strict=True)
    ratios = sorted(
        change / weight if weight else math.inf for weight, change in pairs if change > 0 and weight < math.inf
    )
    return math.sqrt(ratios[(len(ratios) - 1) // 2]) if ratios else math.nan


def _squares(elements: NDArray[np.float32]) -> list[float]:
    """Return the sum of the squares of each matrix's elements."""
    by_matrix = elements.reshape(-1, _ELEMENTS)
    sums: list[float] = np.einsum("ij,ij->i", by_matrix, by_matrix).tolist()
    return sums


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
