"""What an epoch's gradients were like, layer by layer."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from yolo_gradsafe.gradients.layer_groups import LayerGroups
from yolo_gradsafe.telemetry.schema import LayerRow

__all__ = ["LayerLog"]

_AT_MOST = 20_000
"""Steps of an epoch that are kept for its quantiles; of a longer epoch the first."""


class LayerLog:
    """Gathers the layers' norms over an epoch; a few numbers a layer and step, on the host.

    Args:
        grouping: Which tensors are a layer.
    """

    def __init__(self, grouping: LayerGroups) -> None:
        self.grouping = grouping
        self._norms: list[NDArray[np.float32]] = []
        self._ratios: list[NDArray[np.float64]] = []

    def observe(self, layer_norms: NDArray[np.float64]) -> None:
        """Take the norms of one healthy step, in the order of ``grouping.layers``."""
        if len(self._norms) < _AT_MOST:
            self._norms.append(layer_norms.astype(np.float32))

    def observe_update(self, ratios: NDArray[np.float64]) -> None:
        """Take the update-to-weight ratios of one step, in the same order."""
        self._ratios.append(ratios)

    def rows(self, epoch: int) -> list[LayerRow]:
        """Return the epoch's rows, and start anew; none after an epoch without a healthy step."""
        norms, ratios, self._norms, self._ratios = self._norms, self._ratios, [], []
        if not norms:
            return []
        seen = np.stack(norms).astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a layer that is frozen all is nan
            p05, median, p95, largest = np.nanquantile(seen, [0.05, 0.5, 0.95, 1.0], axis=0)
        squares = np.nansum(np.square(seen), axis=0)
        share = squares / squares.sum() if squares.sum() else squares
        ratio = np.median(np.stack(ratios), axis=0) if ratios else np.full(len(share), math.nan)
        return [
            LayerRow(
                epoch=epoch,
                layer=layer,
                stage=self.grouping.stage_of[layer],
                steps=len(seen),
                norm_p05=float(p05[i]),
                norm_median=float(median[i]),
                norm_p95=float(p95[i]),
                norm_max=float(largest[i]),
                share=float(share[i]),
                update_ratio=float(ratio[i]),
            )
            for i, layer in enumerate(self.grouping.layers)
        ]
