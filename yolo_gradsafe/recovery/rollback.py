"""Puts the training state back: what is not finite in place, or all of it from a trusted snapshot."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.savepoint import Savepoint
from yolo_gradsafe.recovery.snapshot import SUSPICIOUS, Snapshot, is_counter, within
from yolo_gradsafe.recovery.snapshot_buffer import SnapshotBuffer
from yolo_gradsafe.state_registry import StateRegistry
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.schema import Kind, Place, Remedy

__all__ = ["Rollback", "RollbackManager"]

_GIB = 2**30
_NAMED = 10


@dataclass(frozen=True)
class Rollback:
    """A return to a snapshot."""

    snapshot: int
    """Optimizer steps that had been taken when it was made."""
    undone: int
    """Optimizer steps that were taken back."""
    peak_update_ratio: float
    """How far a step at the schedule's largest rate has moved the weights since, as a share of their norm; 0 where it
    is not known."""
    again: bool = False
    """Whether the last return was to the same snapshot: going back alone does not hold."""


class RollbackManager:
    """Takes snapshots while all is well, and goes back to them.

    What it decides it decides on all ranks alike; each repairs its own buffers.

    Args:
        trainer: The trainer.
        options: How many snapshots, how often, in how much memory.
        savepoint: Its copy of the batch-norm statistics is renewed with them.
        registry: What is learnt along with the weights, and goes back with them.
        incidents: Where to say what was done.
    """

    def __init__(
        self,
        trainer: TrainerAdapter,
        options: RecoveryOptions,
        savepoint: Savepoint,
        registry: StateRegistry,
        incidents: IncidentLog,
    ) -> None:
        self._trainer = trainer
        self._options = options
        self._savepoint = savepoint
        self._registry = registry
        self._incidents = incidents
        self._buffer: SnapshotBuffer | None = None
        self._returned_to = -1
        self._rate_sum = 0.0
        """Sum of the learning rates of all steps taken, each as a share of the schedule's largest."""
        self.needs_first_snapshot = options.enabled and options.snapshots > 0
        """Whether the first snapshot is still to be taken, before the first step."""
        self.unsound_snapshot = False
        """Whether a snapshot turned out not to be finite, and this was not mended yet."""

    @property
    def trusted(self) -> Snapshot | None:
        """The newest snapshot to go back to."""
        return self._buffer.trusted[0] if self._buffer is not None and self._buffer.trusted else None

    @property
    def snapshot_interval(self) -> int:
        """Steps from one snapshot to the next; 0 where none are taken."""
        return 0 if self._buffer is None else self._buffer.interval

    def set_interval(self, interval: int) -> None:
        """Take snapshots as rarely as the slowest rank needs it."""
        if self._buffer is not None:
            self._buffer.interval = interval

    def pause_clock(self) -> None:
        """Leave the time until the next step out of account."""
        if self._buffer is not None:
            self._buffer.pause_clock()

    def restart(self, step: int) -> None:
        """Take a first snapshot, and give up all that there are. Synchronises. Collective."""
        self._buffer, self.needs_first_snapshot = None, False
        buffer = self._new_buffer() if self._options.enabled and self._options.snapshots > 0 else None
        if buffer is not None:
            sound = buffer.take_first(step)
            if self._trainer.ranks.all_reduce_max([not sound])[0] and sound:
                buffer.revoke_newest()
            self._buffer = buffer

    def count_safe_step(self, step: int, rate: float, elevated: bool) -> None:
        """Count a step that was taken: prove and take snapshots, on this rank alone.

        Args:
            step: Optimizer steps so far.
            rate: Learning rate that it was taken with, as a share of the schedule's largest.
            elevated: Whether losses are out of their range: the candidate may be part of what is wrong.
        """
        self._rate_sum += rate
        if self._buffer is None:
            return
        if elevated:
            self._buffer.drop_candidate()
        elif not self._buffer.count_safe_step(step):
            self.unsound_snapshot = True

    def repair_unsound(self) -> None:
        """Repair the state that a snapshot was taken of, after it was found not to be finite on a rank. Collective."""
        if self._buffer is not None and not self.unsound_snapshot:
            self._buffer.revoke_newest()
        self.unsound_snapshot = False
        self.repair_nonfinite(Place.SNAPSHOT)

    def check_state(self) -> None:
        """Look at the whole state, and repair it if it is not finite; before it is validated and saved.

        Ranks whose weights are no longer the same get those of the rank that has moved least since it was trusted.
        Synchronises. Collective.
        """
        trainer, trusted = self._trainer, self.trusted
        if trusted is None:
            return
        state = trainer.state.tensors()
        sound = within([tensor for name, tensor in state.items() if not is_counter(name)], SUSPICIOUS)
        checksum = self._checksum() if trainer.ranks.several else 0.0
        bad, most, least = trainer.ranks.all_reduce_max([not sound, checksum, -checksum])
        if bad:
            self.repair_nonfinite(Place.EPOCH_END)
        elif most != -least:
            trainer.broadcast_state(cost=trusted.drift(trainer.state.model()))
            self._savepoint.renew()
            self._incidents.log(Kind.HEALED, place=Place.RANKS, remedies=(Remedy.RANKS_SYNCED,))

    def repair_nonfinite(self, place: Place = Place.STATE) -> int:
        """Replace what is not finite or blown up in weights, buffers, EMA and optimizer state.

        Where another rank is sound, its weights and optimizer state are better than any snapshot's, and are taken.
        Without a trusted snapshot nothing is touched. Synchronises. Collective.

        Args:
            place: Where it was seen, for the incident.

        Returns:
            Number of tensors that were repaired, on all ranks.
        """
        trainer, source = self._trainer, self.trusted
        if source is None:
            return 0
        repaired = source.repair_nonfinite(trainer.state.tensors(), trainer.state.weights())
        by_rank = trainer.ranks.gather_objects(repaired) if trainer.ranks.all_reduce_max([bool(repaired)])[0] else []
        if not any(by_rank):
            return 0
        remedies: tuple[Remedy, ...] = (Remedy.REPAIRED,)
        sound_rank = -1
        if trainer.ranks.several:
            trainer.broadcast_state(cost=len(repaired))
            repaired = [f"{name} on rank {rank}" for rank, names in enumerate(by_rank) for name in names]
            remedies = (Remedy.REPAIRED, Remedy.RANKS_SYNCED)
            sound_rank = next((rank for rank, names in enumerate(by_rank) if not names), -1)
        self._savepoint.renew()
        self._incidents.log(
            Kind.HEALED,
            place=place,
            remedies=remedies,
            tensors=repaired[:_NAMED],
            tensor_count=len(repaired),
            repaired=len(repaired),
            snapshot=source.step,
            count=sound_rank,
        )
        return len(repaired)

    def roll_back(self, steps: int) -> Rollback:
        """Go back to the newest trusted snapshot, or the one before if that was gone back to already. Collective.

        Args:
            steps: Optimizer steps taken so far.

        Raises:
            LookupError: There is no trusted snapshot.
        """
        trusted = self.trusted
        if trusted is None or self._buffer is None:
            raise LookupError("there is no snapshot to go back to")
        moved, again = self._peak_update_ratio(trusted), trusted.step == self._returned_to
        if again:
            self._buffer.drop_newest()
            trusted = self.trusted or trusted
        self._go_back(trusted)
        self._trainer.broadcast_state()  # what one rank had lost before it was seen is in its snapshot, too
        self._log_rollback(steps, trusted, Place.STATE)
        return Rollback(trusted.step, steps - trusted.step, moved, again)

    def rescue_validation(self, steps: int) -> Callable[[bool], Rollback | None] | None:
        """Go back to a trusted snapshot for a validation that was not finite. Collective.

        Args:
            steps: Optimizer steps so far.

        Returns:
            What settles it: True keeps the rollback and returns it, False undoes it. None when there is nothing to go
            back to.
        """
        trusted = self.trusted
        if trusted is None or trusted.step >= steps:
            return None
        back = Rollback(
            trusted.step, steps - trusted.step, self._peak_update_ratio(trusted), trusted.step == self._returned_to
        )
        kept, moments = Snapshot(), self._trainer.state.moments()
        kept.take(steps, self._trainer.state.tensors(), self._extra())
        self._go_back(trusted)

        def settle(helped: bool) -> Rollback | None:
            if helped:
                self._log_rollback(steps, trusted, Place.VALIDATION)
                return back
            self._trainer.state.set_moments(moments)  # a rollback drops those that came after its snapshot
            self._put_back(kept)
            return None

        return settle

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from: the sum of the learning rates."""
        return {"rate_sum": self._rate_sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._rate_sum = float(state.get("rate_sum", 0.0))

    def _peak_update_ratio(self, trusted: Snapshot) -> float:
        """Return the ``Rollback.peak_update_ratio`` of a return that is about to be made. Collective."""
        drift, rates = trusted.drift(self._trainer.state.model()), self._rate_sum - trusted.extra["rate_sum"]
        return self._trainer.ranks.all_reduce_max([drift / rates if drift > 0 and rates > 0 else 0.0])[0]

    def _go_back(self, snapshot: Snapshot) -> None:
        self._put_back(snapshot)
        if self._options.reset_moments:
            self._trainer.state.reset_moments()

    def _put_back(self, snapshot: Snapshot) -> None:
        state = self._trainer.state
        state.forget(snapshot.restore(state.tensors()))
        state.set_extra(snapshot.extra)
        self._registry.load_state_dict(snapshot.extra["learnt"])
        self._rate_sum = snapshot.extra["rate_sum"]
        self._savepoint.renew()

    def _log_rollback(self, steps: int, snapshot: Snapshot, place: Place) -> None:
        if self._buffer is not None:
            self._buffer.drop_candidate()
        self._returned_to = snapshot.step
        undone = steps - snapshot.step
        self._incidents.log(
            Kind.ROLLBACK,
            place=place,
            remedies=(Remedy.ROLLED_BACK,),
            snapshot=snapshot.step,
            undone=undone,
            steps_lost=undone,
        )

    def _checksum(self) -> float:
        """Return a number that differs where weights or optimizer state do. Synchronises."""
        state = self._trainer.state
        floats = [t for t in [*state.weights().values(), *state.optimizer().values()] if t.is_floating_point()]
        norms = torch.stack([norm.float().to(floats[0].device) for norm in torch._foreach_norm(floats)])
        return float(zlib.crc32(norms.cpu().numpy().tobytes()))

    def _extra(self) -> dict[str, Any]:
        learnt = self._registry.state_dict(with_weights_only=True)
        return {**self._trainer.state.extra(), "rate_sum": self._rate_sum, "learnt": learnt}

    def _new_buffer(self) -> SnapshotBuffer | None:
        """Make room for as many snapshots as fit."""
        options, state = self._options, self._trainer.state
        # Two moments a weight are what the optimizers of Ultralytics have at most, and none before the first step.
        size = Snapshot.nbytes(state.tensors()) + 2 * Snapshot.nbytes(state.model())
        slots = min(max(options.snapshots, 2), int(options.snapshot_memory * _GIB / max(size, 1)))
        if slots < 2:
            amounts = f"{size / _GIB:.1f} GiB each, {options.snapshot_memory:g} GiB allowed"
            self._incidents.log(Kind.NO_SNAPSHOTS, detail=amounts)
            return None
        return SnapshotBuffer(state.tensors, self._extra, options.trust_steps, options.snapshot_share, slots)
