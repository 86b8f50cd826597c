"""A fault with all that a drill must know of it: when it strikes, what it may cost, and where it makes sense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from yolo_gradsafe.drill.faults.base import Fault

__all__ = ["ANY", "OPTIMIZERS", "PARTS", "PRECISIONS", "TASKS", "Promise", "Scenario"]

TASKS = ("detect", "pose")
PRECISIONS = ("fp32", "bf16", "fp16", "scaler")
"""``fp16`` has a GradScaler; ``scaler`` is a float32 forward pass with a GradScaler, which a CPU does fast."""
OPTIMIZERS = ("SGD", "AdamW", "MuSGD")
PARTS = ("weights", "buffers", "ema", "optimizer", "last.pt", "best.pt")
"""What must be finite when a training has ended."""
ANY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Promise:
    """What a guarded training with the fault must come to."""

    steps: int = 0
    """Optimizer steps that it may lose, beside those for the strikes."""
    steps_a_strike: int = 1
    """Optimizer steps that it may lose for every batch in which the fault struck."""
    rollbacks: int = 0
    """Times that it may go back to an earlier state; more are false alarms."""
    tolerance: float = 0.05
    """Share of the clean run's accuracy that it may lose; the spread of clean runs when that is more."""
    finite: tuple[str, ...] = PARTS
    """Parts that must be finite afterwards."""


@dataclass(frozen=True)
class Scenario:
    """A named fault at a certain time."""

    name: str
    make: Callable[[int], Fault] | None
    """Makes the fault from a seed; None where nothing is injected, but ``wrong`` arguments do the harm."""
    promise: Promise = field(default_factory=Promise)
    about: str = ""
    """What it is, where the fault's own words do not say."""
    tasks: tuple[str, ...] = ANY
    """Tasks that it is for; empty for all."""
    precisions: tuple[str, ...] = ANY
    optimizers: tuple[str, ...] = ANY
    model: str = ""
    """Model that it is about; empty for any."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Training arguments that it needs, in the clean run as well."""
    wrong: Mapping[str, Any] = field(default_factory=dict)
    """Training arguments of the faulty runs alone."""

    @property
    def place(self) -> str:
        """What it harms."""
        return self.make(0).place if self.make else "settings"

    @property
    def description(self) -> str:
        """One line for a person."""
        if self.make is None:
            return self.about
        fault = self.make(0)
        what = self.about or (type(fault).__doc__ or "").split("\n")[0].rstrip(".").replace("``", "")
        return f"{what}; {fault.when}"

    def fits(self, task: str, precision: str, optimizer: str) -> bool:
        """Tell whether it makes sense there."""
        wanted = ((self.tasks, task), (self.precisions, precision), (self.optimizers, optimizer))
        return all(not allowed or value in allowed for allowed, value in wanted)
