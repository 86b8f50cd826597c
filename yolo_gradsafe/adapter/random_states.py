"""Random states that something leaves as they were."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

__all__ = ["keep_random_states"]


def keep_random_states(device: torch.device) -> Callable[[], None]:
    """Return what puts the random states of Python, NumPy and PyTorch back as they are now.

    Args:
        device: The model's. Its generator is kept too, and no other GPU's: to ask the others would start a CUDA context
            on each.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)

    return put_back
