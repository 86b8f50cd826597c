"""What is done about an optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from yolo_gradsafe.clipping.base import NOT_CLIPPED, Clip
from yolo_gradsafe.telemetry.schema import Remedy

__all__ = ["UNASSESSED", "Outcome", "Settle"]


class Settle(Enum):
    """What becomes of a change that the forward passes have made."""

    LEAVE = auto()
    COMMIT = auto()
    ROLLBACK = auto()


@dataclass(frozen=True)
class Outcome:
    """What is done about an optimizer step; ``StepDriver.finish`` and ``Savepoint.settle`` carry it out."""

    apply: bool = True
    """Whether the optimizer is called; on an AMP overflow it is, and the GradScaler skips the step."""
    assessed: bool = True
    """Whether the step could be judged; one that could not be is taken as stock takes it."""
    routine_overflow: bool = False
    """Whether this is an AMP overflow, which GradScaler handles."""
    clip: Clip = NOT_CLIPPED
    """What the clipper did; for a step that it did not see, the threshold that was in force."""
    lr_factor: float = 1.0
    """What the learning rate is multiplied with for this step."""
    statistics: Settle = Settle.LEAVE
    """What becomes of the batch-norm statistics."""
    losses: Settle = Settle.LEAVE
    """What becomes of the losses that the trainer shows. Left, a bad loss reaches Ultralytics' own recovery."""
    grads_finite: bool | None = None
    """Whether the unscaled gradients are finite; None when it is not known."""
    amp_scale: float = math.nan
    """Loss scale of the step; nan when it is not known."""
    remedies: tuple[Remedy, ...] = ()
    """What was done about a bad step, in order."""
    stop: str = ""
    """Why training has to end; empty when it goes on."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Fields of the step's ``Incident``: what was found, and the numbers of the remedies."""

    @property
    def taken(self) -> bool:
        """Whether the step changes the weights."""
        return self.apply and not self.routine_overflow


UNASSESSED = Outcome(assessed=False)
"""A step that could not be judged, because of a fault of the plugin."""
