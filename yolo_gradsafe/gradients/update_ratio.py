"""How far a step moves the weights, from a sample of them.

The update-to-weight ratio tells a learning rate that is too high (well above 1e-2) or too low (well below 1e-4) from
one that fits. A copy of all weights would cost their memory; a few elements of each tensor tell the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yolo_gradsafe.gradients.layer_groups import LayerGroups

__all__ = ["UpdateRatioSampler"]

_ELEMENTS = 64
"""Elements sampled of each tensor, evenly spaced."""


class UpdateRatioSampler:
    """Samples the weights before and after a step.

    Nothing here synchronises: what is found stays on the device, to be read with the next step's numbers.

    Args:
        parameters: Named parameters of the model.
        grouping: Which of them are a layer.
        every: Sample one step in so many; 0 for none.
        boundary: Contains a fault of the sampler.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        grouping: LayerGroups,
        every: int,
        boundary: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._parameters = list(parameters)
        self._names = [name for name, _ in self._parameters]
        self._grouping = grouping
        self._every = every
        self._boundary = boundary
        shares = [p.numel() / min(p.numel(), _ELEMENTS) for _, p in self._parameters]
        self._weight = np.sqrt(np.array(shares))
        self._waiting: list[Tensor] = []

    @contextmanager
    def sampling(self, step: int, taken: bool) -> Iterator[None]:
        """Note how far a step moves the weights, if it is this step's turn. A fault of ours stays ours.

        Args:
            step: Number of the step that the body takes.
            taken: Whether the body calls the optimizer.
        """
        before: list[Tensor] = []
        if taken and self._every and step % self._every == 0:
            with self._boundary("sample the updates"):
                before = self._sample()
        yield
        if before:
            with self._boundary("sample the updates"):
                self._compare(before)

    @torch.no_grad()
    def _compare(self, before: list[Tensor]) -> None:
        changes = torch._foreach_norm(torch._foreach_sub(self._sample(), before))
        self._waiting = [torch.stack([*changes, *torch._foreach_norm(before)]).float()]

    def take(self) -> list[Tensor]:
        """Return the sample that waits to be read, if there is one, once.

        Returns:
            At most one tensor: norms of the changes, then those of the weights; shape (2 * tensors,), fp32.
        """
        waiting, self._waiting = self._waiting, []
        return waiting

    def ratios(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Turn the values of what ``take`` returned into a ratio for each layer; nan where the weights are zero."""
        changes, weights = np.split(np.asarray(values, dtype=np.float64), 2)
        change, _ = self._grouping.norms(self._names, list(changes * self._weight))
        weight, _ = self._grouping.norms(self._names, list(weights * self._weight))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(weight > 0, change / weight, np.nan)

    @torch.no_grad()
    def _sample(self) -> list[Tensor]:
        samples = []
        for _, parameter in self._parameters:
            flat = parameter.detach().reshape(-1)
            samples.append(flat[:: max(1, flat.numel() // _ELEMENTS)][:_ELEMENTS].clone())
        return samples
