"""How users record gradients today, each as a function of named gradients, rebuilt from how the tools behave.

Each does what the tool does with the tensors, up to the numbers that it logs; what a logger then does with them
(network, database) is left out. TensorBoard writes its file where it is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["Named", "lightning", "loop", "tensorboard", "wandb_watch"]

Named = list[tuple[str, Tensor]]

_WANDB_BINS = 64
_EDGES = 1e-12 * 1.1 ** np.arange(774)
_TENSORBOARD_EDGES = np.concatenate([-_EDGES[::-1], [0.0], _EDGES])
"""The 1,549 edges of TensorBoard's default bins: powers of 1.1 from 1e-12 to 1e20, of both signs."""


def loop(gradients: Named) -> dict[str, float]:
    """Read each norm by itself, as the snippets that users pass around do."""
    return {name: gradient.norm().item() for name, gradient in gradients}


def lightning(gradients: Named) -> dict[str, float]:
    """Do as ``lightning.pytorch.utilities.grad_norm`` and the logging of its dict do."""
    norms = {f"grad_2.0_norm/{name}": gradient.norm(2.0) for name, gradient in gradients}
    norms["grad_2.0_norm_total"] = torch.tensor(list(norms.values())).norm(2.0)
    return {name: value.item() for name, value in norms.items()}


def wandb_watch(gradients: Named) -> dict[str, tuple[list[float], list[float]]]:
    """Do as the hooks of ``wandb.watch(log="gradients")`` do in a step that they log: 64 bins a tensor."""
    histograms = {}
    for name, gradient in gradients:
        flat = gradient.clone().reshape(-1)
        finite = torch.isfinite(flat)
        if not finite.any().item():
            continue
        if not finite.all():
            flat = flat[finite]
        low, high = flat.min().item(), flat.max().item()
        counts = flat.histc(_WANDB_BINS, low, high).cpu()
        histograms[name] = counts.tolist(), torch.linspace(low, high, _WANDB_BINS + 1).tolist()
    return histograms


def tensorboard(folder: Path) -> tuple[str, Callable[[Named], object]]:
    """Return ``SummaryWriter.add_histogram`` of every gradient, and its name.

    Args:
        folder: Where the event file is written. Where TensorBoard is not installed, there is none: the histogram is
            then made as ``add_histogram`` makes it, in numpy, and not written.
    """
    if importlib.util.find_spec("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))

        def write(gradients: Named) -> None:
            for name, gradient in gradients:
                writer.add_histogram(name, gradient, 0)

        return "TensorBoard add_histogram, every tensor", write
    return "TensorBoard add_histogram, every tensor (its numpy part)", _numpy_histograms


def _numpy_histograms(gradients: Named) -> dict[str, tuple[list[float], list[float], float]]:
    histograms = {}
    for name, gradient in gradients:
        values = gradient.detach().cpu().numpy().reshape(-1).astype(float)
        counts, edges = np.histogram(values, bins=_TENSORBOARD_EDGES)
        used = np.flatnonzero(counts)
        kept = slice(used[0], used[-1] + 1) if used.size else slice(0)
        histograms[name] = counts[kept].tolist(), edges[1:][kept].tolist(), float(values.dot(values))
    return histograms
