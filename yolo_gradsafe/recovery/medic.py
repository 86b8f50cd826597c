"""Carries out the remedies, and takes them back when the training is healthy again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from yolo_gradsafe.clipping import Clipper
from yolo_gradsafe.port import Host
from yolo_gradsafe.recovery.assessment import Assessment
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow
from yolo_gradsafe.recovery.ladder import Plan, Situation, plan
from yolo_gradsafe.recovery.learning_rate import BLAMELESS, LearningRate, bearable_factor
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.precision import PrecisionLadder
from yolo_gradsafe.recovery.ring import SnapshotRing
from yolo_gradsafe.recovery.snapshot import SUSPICIOUS, Snapshot
from yolo_gradsafe.recovery.trend import Outlook, Trend
from yolo_gradsafe.recovery.trial import Cause, Trial
from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["Event", "Medic", "TrainingStopped"]

_GIB = 2**30


class TrainingStopped(RuntimeError):
    """The budgets of the recovery are spent, and ``recovery.on_exhausted`` is ``raise``."""


@dataclass(frozen=True)
class Event:
    """A remedy that was applied or taken back, in words."""

    kind: str
    message: str
    action: str
    steps_lost: int = 0


class Medic:
    """Heals, rolls back, lowers the learning rate, raises the precision, stops; and keeps what that takes.

    Args:
        host: The trainer.
        options: Budgets and patience.
        batchnorm: The copy of the batch-norm statistics.
        clipper: What has a state to roll back, too.
    """

    def __init__(self, host: Host, options: RecoveryOptions, batchnorm: BatchNormShadow, clipper: Clipper) -> None:
        self._host = host
        self._options = options
        self._batchnorm = batchnorm
        self._clipper = clipper
        self._trial = Trial(host)
        self.trend = Trend()
        self.lr = LearningRate(options.lr_backoff, options.lr_hold)
        self.ring: SnapshotRing | None = None
        self.stopped = ""
        """Why training has to end; empty while it goes on."""
        self.events: list[Event] = []
        """What was done since they were last taken."""
        self._precision: PrecisionLadder | None = None
        self._resumed_precision: dict[str, Any] | None = None
        self._skipped = self._healed = self._rollbacks = 0
        self._rolled_back_at: int | None = None
        self._rolled_back_to = -1
        self._cause = Cause.UNKNOWN
        self._no_room = False
        self._lr_sum = 0.0

    # Healthy steps --------------------------------------------------------------------------------------------------

    def begin_epoch(self, step: int) -> None:
        """Take the first snapshot, before the first step. Synchronises."""
        if self.ring is not None:
            self.ring.pause()
        if not self._options.enabled or not self._options.snapshots or self.ring is not None or self._no_room:
            return
        options, state = self._options, self._host.state
        # Two moments a weight are what the optimizers of Ultralytics have at most, and none before the first step.
        size = Snapshot.nbytes(state.tensors()) + 2 * Snapshot.nbytes(state.model())
        slots = min(max(options.snapshots, 2), int(options.snapshot_memory * _GIB / max(size, 1)))
        if slots < 2:
            self._no_room = True
            self.tell(
                "no_snapshots",
                f"a snapshot takes {size / _GIB:.1f} GiB of host memory and recovery.snapshot_memory is "
                f"{options.snapshot_memory:g}, room for less than two",
                "bad steps are skipped, but nothing can be healed or rolled back",
            )
            return
        self.ring = SnapshotRing(
            self._host.state.tensors,
            lambda: {**self._host.state.extra(), "clipper": self._clipper.state_dict(), "lr_sum": self._lr_sum},
            options.trust_steps,
            options.snapshot_share,
            slots,
            lambda number: self._host.largest([number])[0],
        )
        self.ring.begin(step)

    def healthy(self, step: int, lr: float) -> None:
        """Count a healthy step that was taken: prove and take snapshots, take remedies back.

        Args:
            step: Optimizer steps so far.
            lr: Learning rate that it was taken with.
        """
        self._skipped = self._healed = 0
        self._lr_sum += lr
        calm = self.trend.sum == 0
        if self.ring is not None:
            if not calm:
                self.ring.doubt()
            elif not self.ring.healthy(step):
                self.heal("a snapshot was not finite")
        if calm and self.lr.healthy():
            self.tell("lr_ramp", "training has been healthy since", f"learning rate back at x{self.lr.factor:g}")
        if (self._precision or self._resumed_precision) is not None and self._ladder().clean():
            self._host.set_precision(self._ladder().now)
            self.tell("precision", "training has been healthy since", f"back to {self._ladder().now}")

    # Doubtful and bad steps -----------------------------------------------------------------------------------------

    def outlook(self, loss: float, norm: float, batch: Any) -> tuple[Outlook, bool]:
        """Say how a finite step looks against the recent past, and whether training is diverging.

        Slow only under suspicion: then the batch is tried under trusted weights.

        Args:
            loss: Largest loss an image over the ranks.
            norm: Gradient norm.
            batch: The preprocessed batch.
        """
        outlook = self.trend.see(loss, norm)
        trusted = self._trusted() if self._options.divergence else None
        if trusted is None or not (outlook.suspect or outlook.collapsed):
            return outlook, False
        if outlook.collapsed or self._trial.worse(batch, trusted):
            return outlook, True
        self.trend.accept(loss)
        return outlook, False

    def treat(self, step: Assessment, batch: Any) -> None:
        """Do what a bad or diverging step calls for; the step itself is skipped by the caller."""
        self._skipped += 1
        self.lr.unhealthy()
        if step.verdict is Verdict.BAD_BATCH:
            step.cause = str(self._find_cause(step, batch))
        situation = Situation(
            verdict=step.verdict,
            cause=self._cause if step.verdict is Verdict.BAD_BATCH else Cause.UNKNOWN,
            rising=self.trend.sum > 0,
            skipped=self._skipped,
            healed=self._healed,
            rollbacks=self._rollbacks,
            since_rollback=None if self._rolled_back_at is None else step.sample.step - self._rolled_back_at,
            snapshot=self._trusted() is not None,
        )
        step.handled = situation.snapshot or step.verdict is not Verdict.POISONED
        if step.handled:
            self._carry_out(plan(situation, self._options), step)
        else:
            step.remedy = "skipped the step and left the rest to Ultralytics' own recovery: there is no snapshot"

    def inspect(self) -> None:
        """Look at the whole state, and heal it if it is not finite; before it is validated and saved. Synchronises."""
        if self._options.enabled and self._trusted() is not None:
            floats = [t for t in self._host.state.tensors().values() if t.is_floating_point()]
            largest = torch.stack([n.float() for n in torch._foreach_norm(floats, ord=math.inf)]).max()
            if self._host.largest([not float(largest) <= SUSPICIOUS])[0]:
                self.heal("not finite, or far too large, at the end of the epoch")

    def heal(self, why: str) -> list[str]:
        """Replace what is not finite in weights, buffers, EMA and optimizer state. Synchronises.

        Returns:
            Names of what was healed; of this rank, unless it was another's alone.
        """
        source = self._trusted() or Snapshot()
        healed = source.heal(self._host.state.tensors())
        if self._host.largest([float(bool(healed))])[0]:
            healed = healed or ["a tensor on another rank"]
            self._batchnorm.look()
            self._batchnorm.keep()
            named = ", ".join(healed[:3]) + (f" and {len(healed) - 3} more" if len(healed) > 3 else "")
            origin = f"the snapshot of step {source.step}" if source.step >= 0 else "zeros: there is no snapshot"
            self.tell("healed", f"{why}: {named}", f"took the elements concerned from {origin}")
        return healed

    def _carry_out(self, what: Plan, step: Assessment) -> None:
        done = ["skipped the step"]
        healed: list[str] = []
        if what.heal or what.rollback:
            healed = self.heal("not finite, or far too large")
        if healed:
            self._healed += 1
            self.trend.forgive()
            done.append(f"healed {len(healed)} tensors")
        bearable = self._bearable(step) if what.lower_lr and not healed else 1.0
        if what.rollback and not healed:
            done.append(self._roll_back(step.sample.step))
        if what.lower_lr and self._options.lr_backoff < 1 and (bearable < BLAMELESS or what.again) and not healed:
            self.lr.lower(bearable)
            done.append(f"lowered the learning rate to x{self.lr.factor:g}")
            self.tell("lr_backoff", "training diverged", f"learning rate x{self.lr.factor:g}")
        if what.raise_precision and self._raise_precision(step.sample.step):
            done.append(f"raised the precision to {self._host.forward_precision}")
        if what.stop and not self.stopped:
            self.stopped = what.stop
            done.append("ended the training")
            self.tell("stop", what.stop, "ended the training")
        step.remedy = ", ".join(done)

    def _bearable(self, step: Assessment) -> float:
        """Return the factor on the learning rate that the movement of the weights asks for."""
        trusted = self._trusted()
        if trusted is None:
            return 1.0
        drift = trusted.drift(self._host.state.model())
        return bearable_factor(drift, self._lr_sum - trusted.extra["lr_sum"], self._host.lr_ahead)

    def _roll_back(self, step: int) -> str:
        trusted = self._trusted()
        assert trusted is not None
        if trusted.step == self._rolled_back_to:
            assert self.ring is not None
            self.ring.drop_newest()  # it was gone back to before, and that did not hold
            trusted = self._trusted() or trusted
        self._go_back(trusted)
        return self._note_rollback(step - 1, trusted, "the weights had gone bad")

    def rescue(self, steps: int) -> Callable[[bool], None] | None:
        """Go back to a trusted snapshot for a validation that was not finite.

        Args:
            steps: Optimizer steps so far.

        Returns:
            What settles it: True keeps the rollback, False undoes it. None when there is nothing to go back to.
        """
        trusted = self._trusted()
        if trusted is None or trusted.step >= steps:
            return None
        state, kept = self._host.state, Snapshot()
        kept.take(steps, state.tensors(), {**state.extra(), "clipper": self._clipper.state_dict()})
        self._go_back(trusted)

        def settle(helped: bool) -> None:
            if helped:
                self._note_rollback(steps, trusted, "validation was not finite, and is with the weights of before")
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
        self._batchnorm.look()
        self._batchnorm.keep()

    def _note_rollback(self, steps: int, snapshot: Snapshot, why: str) -> str:
        self.trend.forgive()
        if self.ring is not None:
            self.ring.doubt()
        self._rollbacks += 1
        self._rolled_back_at, self._rolled_back_to = steps, snapshot.step
        lost = steps - snapshot.step
        done = f"went back to the snapshot of step {snapshot.step} ({lost} steps lost)"
        self.tell("rollback", why, done, lost)
        return done

    def _raise_precision(self, step: int) -> bool:
        ladder = self._ladder()
        before = ladder.now
        if not ladder.fault(step):
            return False
        self._host.set_precision(ladder.now)
        self.tell("precision", f"steps overflowed in {before} alone", f"training goes on in {ladder.now}")
        return True

    def _ladder(self) -> PrecisionLadder:
        """Return the precision ladder; its rungs are known once a batch has been trained on."""
        if self._precision is None:
            options = self._options
            self._precision = PrecisionLadder(
                self._host.precisions(), options.precision_patience, options.precision_hold
            )
            if self._resumed_precision is not None:
                self._precision.load_state_dict(self._resumed_precision)
                self._host.set_precision(self._precision.now)
        return self._precision

    def _find_cause(self, step: Assessment, batch: Any) -> Cause:
        """Look into a bad batch; in a long row of them only now and then."""
        row = self._skipped
        if row & (row - 1) == 0 or self._cause is Cause.PRECISION:
            usual = self.trend.usual * step.sample.images
            self._cause = self._trial.cause(batch, self._trusted(), usual)
        return self._cause

    def _trusted(self) -> Snapshot | None:
        return self.ring.trusted[0] if self.ring is not None and self.ring.trusted else None

    def tell(self, kind: str, message: str, action: str, steps_lost: int = 0) -> None:
        """Note an event, to be taken with ``take_events``."""
        self.events.append(Event(kind, message, action, steps_lost))

    def take_events(self) -> list[Event]:
        """Return what was done since the last call."""
        taken, self.events = self.events, []
        return taken

    # Resume ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as plain numbers."""
        return {
            "trend": self.trend.state_dict(),
            "lr": self.lr.state_dict(),
            "precision": None if self._precision is None else self._precision.state_dict(),
            "rollbacks": self._rollbacks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.trend.load_state_dict(state["trend"])
        self.lr.load_state_dict(state["lr"])
        self._rollbacks = int(state["rollbacks"])
        self._resumed_precision = state["precision"]
