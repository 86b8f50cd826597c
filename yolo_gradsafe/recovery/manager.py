"""Carries out the remedies, and takes them back when the training is healthy again."""

from __future__ import annotations

from typing import Any

from yolo_gradsafe.adapter import Host
from yolo_gradsafe.judge.loss_trend import LossTrend, LossTrendMonitor
from yolo_gradsafe.recovery.cause_probe import Cause, CauseProbe
from yolo_gradsafe.recovery.events import EventLog
from yolo_gradsafe.recovery.ladder import Plan, Situation, plan
from yolo_gradsafe.recovery.learning_rate import BLAMELESS, LearningRate
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.precision import PrecisionLadder
from yolo_gradsafe.recovery.rollback import RollbackManager
from yolo_gradsafe.recovery.step_record import StepRecord
from yolo_gradsafe.telemetry.schema import Verdict

__all__ = ["RecoveryManager", "TrainingStopped"]


class TrainingStopped(RuntimeError):
    """The budgets of the recovery are spent, and ``recovery.on_exhausted`` is ``raise``."""


class RecoveryManager:
    """Heals, rolls back, lowers the learning rate, raises the precision, stops.

    Args:
        host: The trainer.
        options: Budgets and patience.
        restorer: Puts the training state back.
        log: Where to say what was done.
    """

    def __init__(self, host: Host, options: RecoveryOptions, restorer: RollbackManager, log: EventLog) -> None:
        self._host = host
        self._options = options
        self._restorer = restorer
        self._log = log
        self._trial = CauseProbe(host)
        self._trend = LossTrendMonitor()
        self._lr = LearningRate(options.lr_backoff, options.lr_hold)
        self._precision: PrecisionLadder | None = None
        self._resumed_precision: dict[str, Any] | None = None
        self._skipped = self._healed = self._rollbacks = 0
        self._rolled_back_at: int | None = None
        self._cause = Cause.UNKNOWN
        self.stopped = ""
        """Why training has to end; empty while it goes on."""

    @property
    def lr_factor(self) -> float:
        """What the host's learning rate is to be multiplied with."""
        return self._lr.factor

    def healthy(self, step: int, lr: float) -> None:
        """Count a healthy step that was taken, and take remedies back after enough of them.

        Args:
            step: Optimizer steps so far.
            lr: Learning rate that it was taken with.
        """
        self._skipped = self._healed = 0
        self._restorer.lr_sum += lr
        if self._trend.loss_elevated:
            self._restorer.doubt()
            return
        self._restorer.healthy(step)
        if self._lr.healthy():
            self._log.tell("lr_ramp", "training has been healthy since", f"learning rate back at x{self._lr.factor:g}")
        if (self._precision or self._resumed_precision) is not None and self._ladder().clean():
            self._host.set_precision(self._ladder().now)
            self._log.tell("precision", "training has been healthy since", f"back to {self._ladder().now}")

    def outlook(self, loss: float, norm: float) -> LossTrend:
        """Say how a finite step looks against the recent past.

        Args:
            loss: Largest loss an image over the ranks.
            norm: Gradient norm.
        """
        return self._trend.see(loss, norm)

    def suspects(self, outlook: LossTrend) -> bool:
        """Say whether a step is to be looked into for divergence: there must be weights to compare it with."""
        suspicious = outlook.suspect or outlook.collapsed
        return suspicious and self._options.divergence and self._restorer.trusted is not None

    def diverging(self, outlook: LossTrend, loss: float, batch: Any) -> bool:
        """Say whether training is diverging, by a trial of a suspicious step's batch. Slow. Collective.

        Args:
            outlook: How the step looks.
            loss: Largest loss an image over the ranks.
            batch: The preprocessed batch.
        """
        trusted = self._restorer.trusted
        if trusted is None or self._host.largest([batch is None])[0]:
            return False
        if outlook.collapsed or self._trial.worse(batch, trusted):
            return True
        self._trend.accept(loss)
        return False

    def treat(self, step: StepRecord, batch: Any) -> None:
        """Do what a bad or diverging step calls for; the step itself is skipped by the caller."""
        self._skipped += 1
        self._lr.unhealthy()
        bad_batch = step.verdict is Verdict.BAD_BATCH
        if bad_batch:
            self._find_cause(step, batch)
            step.cause = str(self._cause)
        situation = Situation(
            verdict=step.verdict,
            cause=self._cause if bad_batch else Cause.UNKNOWN,
            rising=self._trend.loss_elevated,
            skipped=self._skipped,
            healed=self._healed,
            rollbacks=self._rollbacks,
            since_rollback=None if self._rolled_back_at is None else step.sample.step - self._rolled_back_at,
            snapshot=self._restorer.trusted is not None,
        )
        step.handled = situation.snapshot or step.verdict is not Verdict.POISONED
        if step.handled:
            step.remedy = ", ".join(["skipped the step", *self._carry_out(plan(situation, self._options), step)])
        else:
            step.remedy = "skipped the step and left the rest to Ultralytics' own recovery: there is no snapshot"

    def _carry_out(self, what: Plan, step: StepRecord) -> list[str]:
        """Climb the rungs of a plan, and say which."""
        done = []
        healed = self._restorer.heal("not finite, or far too large") if what.heal or what.rollback else []
        if healed:  # then nothing else is to blame
            self._healed += 1
            self._settled()
            done.append(f"healed {len(healed)} tensors")
        bearable = self._restorer.bearable_lr() if what.lower_lr else 1.0
        if what.rollback and not healed:
            done.append(self._restorer.roll_back(step.sample.step - 1, "the weights had gone bad"))
            self._rollbacks += 1
            self._rolled_back_at = step.sample.step
            self._settled()
        to_blame = bearable < BLAMELESS or what.again
        if what.lower_lr and to_blame and not healed and self._options.lr_backoff < 1:
            self._lr.lower(bearable)
            done.append(f"lowered the learning rate to x{self._lr.factor:.3g}")
            self._log.tell("lr_backoff", "training diverged", f"learning rate x{self._lr.factor:.3g}")
        if what.raise_precision and self._raise_precision(step.sample.step):
            done.append(f"raised the precision to {self._host.forward_precision}")
        if what.stop and not self.stopped:
            self.stopped = what.stop
            done.append("ended the training")
            self._log.tell("stop", what.stop, "ended the training")
        return done

    def _settled(self) -> None:
        """The model is another one: what was suspected or found of the one before does not hold."""
        self._trend.forgive()
        self._cause = Cause.UNKNOWN

    def _find_cause(self, step: StepRecord, batch: Any) -> None:
        """Look into a bad batch; in a long row of them only now and then."""
        row = self._skipped
        if row & (row - 1) == 0 or self._cause in (Cause.PRECISION, Cause.UNKNOWN):
            usual = self._trend.usual * step.sample.images
            self._cause = self._trial.cause(batch, self._restorer.trusted, usual)

    def _raise_precision(self, step: int) -> bool:
        ladder = self._ladder()
        before = ladder.now
        if not ladder.fault(step):
            return False
        self._host.set_precision(ladder.now)
        self._log.tell("precision", f"steps overflowed in {before} alone", f"training goes on in {ladder.now}")
        return True

    def _ladder(self) -> PrecisionLadder:
        """Return the precision ladder; its rungs are known once a batch has been trained on."""
        if self._precision is None:
            patience, hold = self._options.precision_patience, self._options.precision_hold
            self._precision = PrecisionLadder(self._host.precisions(), patience, hold)
            if self._resumed_precision is not None:
                self._precision.load_state_dict(self._resumed_precision)
                self._host.set_precision(self._precision.now)
        return self._precision

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as plain numbers."""
        return {
            "trend": self._trend.state_dict(),
            "lr": self._lr.state_dict(),
            "precision": self._resumed_precision if self._precision is None else self._precision.state_dict(),
            "rollbacks": self._rollbacks,
            "rolled_back_at": self._rolled_back_at,
            "skipped": self._skipped,
            "healed": self._healed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._trend.load_state_dict(state["trend"])
        self._lr.load_state_dict(state["lr"])
        self._rollbacks, self._rolled_back_at = int(state["rollbacks"]), state["rolled_back_at"]
        self._skipped, self._healed = int(state["skipped"]), int(state["healed"])
        self._resumed_precision = state["precision"]
        if self._precision is not None and self._resumed_precision is not None:
            self._precision.load_state_dict(self._resumed_precision)
            self._host.set_precision(self._precision.now)
