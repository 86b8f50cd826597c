"""Precision or not: what fails in fp16 or bf16 and not in fp32, and in which layer the numbers grow too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yolo_gradsafe.forensics.activations import ActivationStats, GradientStats, first_bad, first_bad_gradient, in_model

__all__ = ["Overflow", "backward_overflow", "forward_overflow"]


@dataclass(frozen=True)
class Overflow:
    """Where numbers outgrow a precision."""

    layer: str
    """Module; empty when no module's output is to blame."""
    magnitude: float
    """Largest finite magnitude there: in fp32 where that is known, else what was left in the low precision."""


def forward_overflow(low: Sequence[ActivationStats], full: Sequence[ActivationStats] = ()) -> Overflow | None:
    """Find the module whose output overflows.

    Args:
        low: What the modules did in the low precision.
        full: What they did in fp32, on the same batch; without it the magnitude is that of what is left.

    Returns:
        The first module whose output was not finite while its inputs were; None when every output was finite.
    """
    bad = first_bad(low)
    if bad is None:
        return None
    # A module may run several times: the same run, by the order of runs of that name.
    turn = [one for one in low if one.name == bad.name].index(bad)
    runs = [one for one in full if one.name == bad.name]
    return Overflow(bad.name or "the model", runs[turn].peak if turn < len(runs) else bad.peak)


def backward_overflow(low: Sequence[GradientStats], full: Sequence[GradientStats], scale: float) -> Overflow | None:
    """Find the first gradient that overflows on the way back.

    Args:
        low: Gradients at the modules in the low precision, with the AMP scale in them.
        full: The same in fp32, without it.
        scale: The AMP scale.

    Returns:
        The module that makes it overflow; where it overflows before it reaches the model, the one it reaches first.
    """
    bad = first_bad_gradient(low) or next((one for one in low if not one.finite and in_model(one.name)), None)
    if bad is None:
        return None
    runs = [one for one in low if (one.name, one.at_input) == (bad.name, bad.at_input)]
    turn = next(i for i, one in enumerate(runs) if one is bad)
    runs = [one for one in full if (one.name, one.at_input) == (bad.name, bad.at_input)]
    return Overflow(bad.name, runs[turn].peak * scale if turn < len(runs) else bad.peak)
