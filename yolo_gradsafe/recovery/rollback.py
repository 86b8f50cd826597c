"""Puts the training state back: what is poisoned in place, or all of it from a trusted snapshot."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.clipping import Clipper
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow
from yolo_gradsafe.recovery.events import EventLog
from yolo_gradsafe.recovery.learning_rate import bearable_factor
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.snapshot import SUSPICIOUS, Snapshot, within
from yolo_gradsafe.recovery.snapshot_buffer import SnapshotBuffer

__all__ = ["RollbackManager"]

_GIB = 2**30


class RollbackManager:
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
        self._ring: SnapshotBuffer | None = None
        self._waits = options.enabled and options.snapshots > 0
        self._unsound = False
        self._returned_to = -1
        self.lr_sum = 0.0
        """Sum of the learning rates of all steps taken."""

    @property
    def trusted(self) -> Snapshot | None:
        """The newest snapshot to go back to."""
        return self._ring.trusted[0] if self._ring is not None and self._ring.trusted else None

    @property
    def waits(self) -> bool:
        """Whether the first snapshot is still to be taken, before the first step."""
        return self._waits

    def pause(self) -> None:
        """Leave the time until the next step out of account."""
        if self._ring is not None:
            self._ring.pause()

    def start_over(self, step: int) -> None:
        """Take a first snapshot, and give up all that there are. Synchronises. Collective."""
        self._ring, self._waits = None, False
        ring = self._new_ring() if self._options.enabled and self._options.snapshots > 0 else None
        if ring is not None:
            sound = ring.begin(step)
            if self._host.largest([not sound])[0] and sound:
                ring.distrust()
            self._ring = ring

    def healthy(self, step: int) -> None:
        """Count a healthy step: prove and take snapshots, on this rank alone."""
        if self._ring is not None and not self._ring.healthy(step):
            self._unsound = True

    @property
    def opinion(self) -> list[float]:
        """What the ranks have to agree on: whether a snapshot was not finite, and the steps from one to the next."""
        return [self._unsound, 0.0 if self._ring is None else self._ring.interval]

    def pace(self, interval: float) -> None:
        """Take snapshots as rarely as the slowest rank needs it."""
        if self._ring is not None:
            self._ring.interval = int(interval)

    def heal_unsound(self) -> None:
        """Heal the state that a snapshot was taken of, after it was found not to be finite on a rank. Collective."""
        if self._ring is not None and not self._unsound:
            self._ring.distrust()
        self._unsound = False
        self.heal("a snapshot was not finite")

    def doubt(self) -> None:
        """Give up the snapshot on trial: it may be part of what is wrong."""
        if self._ring is not None:
            self._ring.doubt()

    def inspect(self) -> None:
        """Look at the whole state, and heal it if it is not finite; before it is validated and saved.

        Ranks whose weights are no longer the same get those of the rank that has moved least since it was trusted.
        Synchronises. Collective.
        """
        host, trusted = self._host, self.trusted
        if trusted is None:
            return
        sound = within(list(host.state.tensors().values()), SUSPICIOUS)
        mark = self._mark() if host.ranks.several else 0.0
        bad, most, least = host.largest([not sound, mark, -mark])
        if bad:
            self.heal("not finite, or far too large, at the end of the epoch")
        elif most != -least:
            host.level(cost=trusted.drift(host.state.model()))
            self._renew_batchnorm()
            why = "the ranks no longer had the same weights"
            self._log.tell("healed", why, "took those of the one that had moved least")

    def _mark(self) -> float:
        """Return a number that differs where weights or optimizer state do. Synchronises."""
        state = self._host.state
        floats = [t for t in [*state.weights().values(), *state.optimizer().values()] if t.is_floating_point()]
        norms = torch.stack([norm.float().to(floats[0].device) for norm in torch._foreach_norm(floats)])
        return float(zlib.crc32(norms.cpu().numpy().tobytes()))

    def heal(self, why: str) -> list[str]:
        """Replace what is not finite or blown up in weights, buffers, EMA and optimizer state.

        Where another rank is sound, its weights and optimizer state are better than any snapshot's, and are taken.
        Synchronises. Collective.

        Returns:
            Names of what was healed, on any rank.
        """
        host, source = self._host, self.trusted or Snapshot()
        healed = source.heal(host.state.tensors())
        by_rank = host.ranks.gather(healed) if host.largest([bool(healed)])[0] else []
        if not any(by_rank):
            return []
        origin = f"the snapshot of step {source.step}" if source.step >= 0 else "zeros: there is no snapshot"
        if host.ranks.several:
            host.level(cost=len(healed))
            healed = [f"{name} on rank {rank}" for rank, names in enumerate(by_rank) for name in names]
            origin += next((f", and the weights of rank {r}" for r, names in enumerate(by_rank) if not names), "")
        self._renew_batchnorm()
        named = ", ".join(healed[:3]) + (f" and {len(healed) - 3} more" if len(healed) > 3 else "")
        self._log.tell("healed", f"{why}: {named}", f"took the elements concerned from {origin}")
        return healed

    def bearable_lr(self) -> float:
        """Return the factor on the learning rate that the weights' movement asks for; before going back. Collective."""
        trusted = self.trusted
        if trusted is None:
            return 1.0
        drift = trusted.drift(self._host.state.model())
        factor = bearable_factor(drift, self.lr_sum - trusted.extra["lr_sum"], self._host.lr_ahead)
        return self._host.ranks.smallest(factor)

    def roll_back(self, steps: int, why: str) -> str:
        """Go back to the newest trusted snapshot, or the one before if that was gone back to already. Collective.

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
        self._host.level()  # what one rank had lost before it was seen is in its snapshot, too
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

    def _new_ring(self) -> SnapshotBuffer | None:
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
        return SnapshotBuffer(
            state.tensors,
            self._extra,
            options.trust_steps,
            options.snapshot_share,
            slots,
        )
