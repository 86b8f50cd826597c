"""The precision of one forward pass, from within the trainer's own autocast region."""

from __future__ import annotations

import torch

__all__ = ["precision_now", "set_precision"]


def set_precision(device: str, precision: str) -> None:
    """Change the precision of the autocast region that the caller is in, to its end.

    A trainer opens its autocast region before it preprocesses a batch, and leaving the region puts everything back; so
    called from there this sets the precision of one forward pass and touches no attribute of the trainer.

    Args:
        device: Type of the device.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    torch.set_autocast_enabled(device, precision != "fp32")
    if precision != "fp32":
        torch.set_autocast_dtype(device, torch.bfloat16 if precision == "bf16" else torch.float16)


def precision_now(device: str) -> str:
    """Return the precision of the autocast region that the caller is in: ``fp32``, ``fp16`` or ``bf16``."""
    if not torch.is_autocast_enabled(device):
        return "fp32"
    return "bf16" if torch.get_autocast_dtype(device) is torch.bfloat16 else "fp16"
