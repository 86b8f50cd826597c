"""The precision of one forward pass, from within the trainer's own autocast region or in one of our own.

Not every PyTorch knows autocast for every type of device (2.4 has none for MPS): there all is fp32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp.autocast_mode import is_autocast_available

__all__ = ["casting", "precision_now", "precisions_of", "set_precision"]

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def casting(device: str, precision: str) -> AbstractContextManager[object]:
    """Return a context for a forward pass in a precision.

    Args:
        device: Type of the device.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    if not is_autocast_available(device):
        return nullcontext()
    dtype = _DTYPES.get(precision, torch.float32)
    # No cache of cast weights: one made without gradients must not serve a later pass that needs them.
    return torch.autocast(device, dtype=dtype, enabled=precision != "fp32", cache_enabled=False)


def precisions_of(device: str, own: str) -> list[str]:
    """Return the precisions that a training may be raised to, its own first.

    Args:
        device: Type of the device.
        own: The training's.
    """
    if own == "fp32":
        return [own]
    # Without emulation: PyTorch calls it supported where it is, and Ultralytics refuses it there (T4, RTX 20).
    native = device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return [own, *(["bf16"] if own == "fp16" and native else []), "fp32"]


def set_precision(device: str, precision: str) -> None:
    """Change the precision of the autocast region that the caller is in, to its end.

    A trainer opens its autocast region before it preprocesses a batch, and leaving the region puts everything back; so
    called from there this sets the precision of one forward pass and touches no attribute of the trainer.

    Args:
        device: Type of the device.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    if not is_autocast_available(device):
        return
    torch.set_autocast_enabled(device, precision != "fp32")
    if precision != "fp32":
        torch.set_autocast_dtype(device, _DTYPES[precision])


def precision_now(device: str) -> str:
    """Return the precision of the autocast region that the caller is in: ``fp32``, ``fp16`` or ``bf16``."""
    if not is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return "fp32"
    return "bf16" if torch.get_autocast_dtype(device) is torch.bfloat16 else "fp16"
