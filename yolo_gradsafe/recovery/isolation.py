"""Taking one bad micro-batch out of its accumulation window and keeping the rest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.adapter.device_memory import second_try
from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.savepoint import Savepoint

__all__ = ["Isolation"]


class Isolation:
    """Checks every micro-batch once it is armed, and takes a bad one out of the sum of the gradients.

    Costs a host read and a copy of the gradients a micro-batch, so it is armed by the first bad step and disarms itself
    after enough safe ones. The copy lies on the device where training leaves room for it, else on the host. The window
    then equals the one that the micro-batch was never in.

    Args:
        trainer: The trainer.
        window: The window's micro-batches.
        savepoint: Committed after every good micro-batch while armed.
        options: When to check (``isolate``), and how long (``isolate_hold``).
    """

    def __init__(
        self, trainer: TrainerAdapter, window: AccumulationWindow, savepoint: Savepoint, options: RecoveryOptions
    ) -> None:
        self._trainer = trainer
        self._window = window
        self._savepoint = savepoint
        self._mode = options.isolate if options.enabled else "never"
        self._hold = options.isolate_hold
        self._safe_steps = 0
        self._good: dict[nn.Parameter, Tensor] | None = None
        self.armed = self._mode == "always"

    def arm(self) -> None:
        """Check micro-batches from now on: a step was bad."""
        self.armed = self._mode != "never"
        self._safe_steps = 0

    def count_safe_step(self) -> None:
        """Count a step that was safe to apply, and disarm after enough of them."""
        self._safe_steps += 1
        if self._mode == "auto" and self._safe_steps >= self._hold:
            self.armed = False

    def state_dict(self) -> dict[str, Any]:
        """Return whether it is armed, and since how many safe steps."""
        return {"armed": self.armed, "healthy": self._safe_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.armed = self._mode == "always" or (self._mode == "auto" and bool(state["armed"]))
        self._safe_steps = int(state["healthy"])

    def close_window(self) -> None:
        """Forget the window and its gradients: a step was made of them, or they were given up."""
        self._window.clear()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Forget the gradients of the micro-batches so far: the newest could not be looked at."""
        self._good = None

    @torch.no_grad()
    def newest_is_bad(self, closing: bool) -> bool:
        """Look at the newest micro-batch after its backward pass. Synchronises. Collective.

        With a GradScaler gradients that overflow behind a finite loss are left to it. A window of which nothing good is
        left is left to the step.

        Args:
            closing: Whether the optimizer step follows.

        Returns:
            Whether it has to be taken out.
        """
        sound = second_try(self._newest_is_sound)
        if not self._trainer.ranks.all_reduce_max([float(not sound)])[0]:
            if not closing:
                self._good = second_try(self._copies)
                self._savepoint.commit()
            return False
        return not closing or self._good is not None

    def _newest_is_sound(self) -> bool:
        """Whether loss, gradients and buffers are finite. May be called again."""
        trainer = self._trainer
        loss = float(trainer.loss)
        looked_at = [] if trainer.scaler_enabled else list(trainer.gradients().values())
        norms = [n.float() for n in torch._foreach_norm(looked_at)] if looked_at else []
        sums = torch.stack([*norms, self._savepoint.observe().reshape(()).to(trainer.loss.device)])
        return math.isfinite(loss) and (bool(sums.isfinite().all()) or self._finite(looked_at))

    def _copies(self) -> dict[nn.Parameter, Tensor]:
        """Copy the gradients to where there is room. May be called again."""
        gradients = self._trainer.gradients()
        # The next micro-batch comes on top of the copies: they must not be what it lacks.
        fits = sum(g.nbytes for g in gradients.values()) < self._trainer.memory.room
        return {p: g.clone() if fits else g.to("cpu", copy=True) for p, g in gradients.items()}

    @torch.no_grad()
    def skip_newest(self) -> None:
        """Take the newest micro-batch out of the window. Does not synchronise."""
        self._trainer.zero_grad()
        for parameter, gradient in (self._good or {}).items():
            parameter.grad = gradient.to(parameter.device, copy=True)
        self._savepoint.rollback()
        self._window.skip_newest()

    def skip_open_window(self) -> list[float] | None:
        """Give up the micro-batches that have not come to a step when the epoch ends, if one of them is bad.

        Otherwise validation and ``results.csv`` would see what they did. Synchronises. Collective.

        Returns:
            Their losses when they were given up; None when nothing was wrong.
        """
        losses = self._window.losses
        values: list[float] = torch.stack([loss.reshape(()) for loss in losses]).tolist() if losses else []
        bad = not all(map(math.isfinite, values)) or not self._savepoint.buffers_finite()
        if not self._trainer.ranks.all_reduce_max([bad])[0]:
            return None
        self._trainer.zero_grad()
        self._savepoint.rollback()
        return values

    def _finite(self, tensors: list[Tensor]) -> bool:
        return self._savepoint.buffers_finite() and all(bool(t.isfinite().all()) for t in tensors)
