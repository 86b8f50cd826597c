"""Dropping one bad micro-batch of an accumulation window and keeping the rest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow
from yolo_gradsafe.recovery.losses import ShownLosses

__all__ = ["Isolation"]


class Isolation:
    """Checks every micro-batch once it is armed, and takes a bad one out of the sum of the gradients.

    Costs a host read and a copy of the gradients a micro-batch, so it is armed by the first bad step and disarms itself
    after enough healthy ones. The window then equals the one that the micro-batch was never in.

    Args:
        host: The trainer.
        window: The window's micro-batches.
        batchnorm: Copy of the batch-norm statistics, kept after every good micro-batch while armed.
        losses: The losses that the trainer shows, likewise.
        armed: ``auto``, ``always`` or ``never``.
        hold: Healthy steps after which ``auto`` disarms.
    """

    def __init__(
        self,
        host: Host,
        window: AccumulationWindow,
        batchnorm: BatchNormShadow,
        losses: ShownLosses,
        armed: str,
        hold: int,
    ) -> None:
        self._host = host
        self._window = window
        self._batchnorm = batchnorm
        self._losses = losses
        self._mode = armed
        self._hold = hold
        self._healthy = 0
        self._good: dict[nn.Parameter, Tensor] | None = None
        self.armed = armed == "always"

    def arm(self) -> None:
        """Check micro-batches from now on: a step was bad."""
        self.armed = self._mode != "never"
        self._healthy = 0

    def healthy(self) -> None:
        """Count a healthy step, and disarm after enough of them."""
        self._healthy += 1
        if self._mode == "auto" and self._healthy >= self._hold:
            self.armed = False

    def state_dict(self) -> dict[str, Any]:
        """Return whether it is armed, and since how many healthy steps."""
        return {"armed": self.armed, "healthy": self._healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.armed = self._mode == "always" or (self._mode == "auto" and bool(state["armed"]))
        self._healthy = int(state["healthy"])

    def reset(self) -> None:
        """Forget the window's gradients: a step was made of them, or they were given up."""
        self._good = None

    @torch.no_grad()
    def bad(self, closing: bool) -> bool:
        """Look at the newest micro-batch after its backward pass. Synchronises.

        With a GradScaler gradients that overflow behind a finite loss are left to it. A window of which nothing good is
        left is left to the step.

        Args:
            closing: Whether the optimizer step follows.

        Returns:
            Whether it has to be taken out.
        """
        host = self._host
        loss = float(host.loss)
        gradients = host.gradients()
        looked_at = [] if host.scaler_enabled else list(gradients.values())
        norms = [n.float() for n in torch._foreach_norm(looked_at)] if looked_at else []
        sums = torch.stack([*norms, self._batchnorm.look().reshape(()).to(host.loss.device)])
        sound = math.isfinite(loss) and (bool(sums.isfinite().all()) or self._finite(looked_at))
        if not host.largest([float(not sound)])[0]:
            if not closing:
                self._good = {p: g.clone() for p, g in gradients.items()}
                self._batchnorm.keep()
                self._losses.keep()
            return False
        return not closing or self._good is not None

    @torch.no_grad()
    def take_out(self) -> None:
        """Take the newest micro-batch out of the window. Does not synchronise."""
        self._host.zero_grad()
        for parameter, gradient in (self._good or {}).items():
            parameter.grad = gradient.clone()
        self._batchnorm.restore()
        self._losses.repair()
        self._window.drop_newest()

    def _finite(self, tensors: list[Tensor]) -> bool:
        return self._batchnorm.finite() and all(bool(t.isfinite().all()) for t in tensors)
