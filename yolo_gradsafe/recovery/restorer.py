"""Puts the training state back: what is poisoned in place, or all of it from a trusted snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from yolo_gradsafe.clipping import Clipper
from yolo_gradsafe.port import Host
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow
from yolo_gradsafe.recovery.events import EventLog
from yolo_gradsafe.recovery.learning_rate import bearable_factor
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.ring import SnapshotRing
from yolo_gradsafe.recovery.snapshot import SUSPICIOUS, Snapshot

__all__ = ["Restorer"]

_GIB = 2**30


class Restorer:
    """Takes snapshots while all is well, and goes back to them.

    What it decides it decides on all ranks alike; each heals its own buffers.

    Args:
        host: The trainer.
        options: How many snapshots, how often, in how much memory.
        batchnorm: The copy of the batch-norm statistics, to be renewed with them.
        clipper: What has a state to take back, too.
        log: Where to say what was done.
    """

    def __init__(
        self, host: Host, options: RecoveryOptions, batchnorm: BatchNormShadow, clipper: Clipper, log: EventLog
    ) -> None:
        self._host = host
        self._options = options
        self._batchnorm = batchnorm
        self._clipper = clipper
        self._log = log
        self._ring: SnapshotRing | None = None
        self._wanted = options.enabled and options.snapshots > 0
        self._returned_to = -1
        self.lr_sum = 0.0
        """Sum of the learning rates of all steps taken."""

    @property
    def trusted(self) -> Snapshot | None:
        """The newest snapshot to go back to."""
        return self._ring.trusted[0] if self._ring is not None and self._ring.trusted else None

    def begin_epoch(self, step: int) -> None:
        """Take the first snapshot, before the first step. Synchronises then."""
        if self._ring is not None:
            self._ring.pause()
        elif self._wanted:
            self._wanted = False
            self._ring = self._new_ring()
            if self._ring is not None:
                self._ring.begin(step)

    def healthy(self, step: int) -> None:
        """Count a healthy step: prove and take snapshots."""
        if self._ring is not None and not self._ring.healthy(step):
            self.heal("a snapshot was not finite")

    def doubt(self) -> None:
        """Give up the snapshot on trial: it may be part of what is wrong."""
        if self._ring is not None:
            self._ring.doubt()

    def inspect(self) -> None:
        """Look at the whole state, and heal it if it is not finite; before it is validated and saved. Synchronises."""
        if self.trusted is not None:
            floats = [t for t in self._host.state.tensors().values() if t.is_floating_point()]
            largest = torch.stack([n.float() for n in torch._foreach_norm(floats, ord=math.inf)]).max()
            if self._host.largest([not float(largest) <= SUSPICIOUS])[0]:
                self.heal("not finite, or far too large, at the end of the epoch")

    def heal(self, why: str) -> list[str]:
        """Replace what is not finite or blown up in weights, buffers, EMA and optimizer state. Synchronises.

        Returns:
            Names of what was healed; of this rank, unless it was another's alone.
        """
        source = self.trusted or Snapshot()
        healed = source.heal(self._host.state.tensors())
        if self._host.largest([float(bool(healed))])[0]:
            healed = healed or ["a tensor on another rank"]
            self._renew_batchnorm()
            named = ", ".join(healed[:3]) + (f" and {len(healed) - 3} more" if len(healed) > 3 else "")
            origin = f"the snapshot of step {source.step}" if source.step >= 0 else "zeros: there is no snapshot"
            self._log.tell("healed", f"{why}: {named}", f"took the elements concerned from {origin}")
        return healed

    def bearable_lr(self) -> float:
        """Return the factor on the learning rate that the weights' movement asks for; before going back."""
        trusted = self.trusted
        if trusted is None:
            return 1.0
        drift = trusted.drift(self._host.state.model())
        return bearable_factor(drift, self.lr_sum - trusted.extra["lr_sum"], self._host.lr_ahead)

    def roll_back(self, steps: int, why: str) -> str:
        """Go back to the newest trusted snapshot, or the one before if that was gone back to already.

        Args:
            steps: Optimizer steps taken so far.
            why: What was wrong.

        Returns:
            What was done, in words.
        """
        trusted = self.trusted
        assert trusted is not None
        assert self._ring is not None
        if trusted.step == self._returned_to:
            self._ring.drop_newest()
            trusted = self.trusted or trusted
        self._go_back(trusted)
        return self._note(steps, trusted, why)

    def rescue(self, steps: int) -> Callable[[bool], None] | None:
        """Go back to a trusted snapshot for a validation that was not finite.

        Args:
            steps: Optimizer steps so far.

        Returns:
            What settles it: True keeps the rollback, False undoes it. None when there is nothing to go back to.
        """
        trusted = self.trusted
        if trusted is None or trusted.step >= steps:
            return None
        kept = Snapshot()
        kept.take(steps, self._host.state.tensors(), self._extra())
        self._go_back(trusted)

        def settle(helped: bool) -> None:
            if helped:
                self._note(steps, trusted, "validation was not finite, and is with the weights of before")
            else:
                self._go_back(kept)

        return settle

    def _go_back(self, snapshot: Snapshot) -> None:
        state = self._host.state
        state.forget(snapshot.restore(state.tensors()))
        state.set_extra(snapshot.extra)
        self._clipper.load_state_dict(snapshot.extra["clipper"])
        if self._options.reset_moments:
            state.reset_moments()
        self._renew_batchnorm()

    def _note(self, steps: int, snapshot: Snapshot, why: str) -> str:
        self.doubt()
        self._returned_to = snapshot.step
        lost = steps - snapshot.step
        done = f"went back to the snapshot of step {snapshot.step} ({lost} steps lost)"
        self._log.tell("rollback", why, done, lost)
        return done

    def _renew_batchnorm(self) -> None:
        self._batchnorm.look()
        self._batchnorm.keep()

    def _extra(self) -> dict[str, object]:
        return {**self._host.state.extra(), "clipper": self._clipper.state_dict(), "lr_sum": self.lr_sum}

    def _new_ring(self) -> SnapshotRing | None:
        """Make room for as many snapshots as fit."""
        options, state = self._options, self._host.state
        # Two moments a weight are what the optimizers of Ultralytics have at most, and none before the first step.
        size = Snapshot.nbytes(state.tensors()) + 2 * Snapshot.nbytes(state.model())
        slots = min(max(options.snapshots, 2), int(options.snapshot_memory * _GIB / max(size, 1)))
        if slots < 2:
            self._log.tell(
                "no_snapshots",
                f"a snapshot takes {size / _GIB:.1f} GiB of host memory and recovery.snapshot_memory is "
                f"{options.snapshot_memory:g}, room for less than two",
                "bad steps are skipped, but nothing can be healed or rolled back",
            )
            return None
        return SnapshotRing(
            state.tensors,
            self._extra,
            options.trust_steps,
            options.snapshot_share,
            slots,
            lambda number: self._host.largest([number])[0],
        )
