"""Carries out the remedies, and takes them back when the training is healthy again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.investigator import FaultInvestigator
from yolo_gradsafe.judge.history import History
from yolo_gradsafe.judge.loss_trend import EXCESS, LossTrend
from yolo_gradsafe.judge.movement import Movement
from yolo_gradsafe.judge.verdict import Evidence, Signals, StepMetrics
from yolo_gradsafe.recovery.isolation import Isolation
from yolo_gradsafe.recovery.ladder import COOL_DOWN, Plan, Situation, plan
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.outcome import Outcome, Settle
from yolo_gradsafe.recovery.precision_control import PrecisionControl
from yolo_gradsafe.recovery.rate_control import RateControl
from yolo_gradsafe.recovery.rollback import Rollback, RollbackManager
from yolo_gradsafe.recovery.snapshot import finite
from yolo_gradsafe.recovery.trusted_weights import in_place, trusted_do_better
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.schema import Cause, Incident, Kind, Place, Remedy, Verdict
from yolo_gradsafe.telemetry.sentences import message

__all__ = ["RecoveryManager", "TrainingStopped"]

_WORSE = 1.2
"""Times the loss under the weights before, from which steps that moved them too far are taken back: measured were 1.3
to 3.0 times where they had been trained before, and 0.5 to 1.0 times where they were random, when the steps help."""


class TrainingStopped(RuntimeError):
    """The budgets of the recovery are spent, and ``recovery.on_exhausted`` is ``raise``."""


class RecoveryManager:
    """Repairs, rolls back, lowers the learning rate, raises the precision, stops.

    Args:
        trainer: The trainer.
        options: Budgets and patience.
        history: What the steps before say; what they suspected is dropped when the model is another one.
        investigator: Finds out what made a step bad.
        isolation: Armed by the first bad step.
        rollback: Puts the training state back.
        incidents: Where to say what was done.

    Attributes:
        rate: Lowers the learning rate, and takes that back.
        precision: Raises the precision, and takes that back.
    """

    def __init__(
        self,
        trainer: TrainerAdapter,
        options: RecoveryOptions,
        history: History,
        investigator: FaultInvestigator,
        isolation: Isolation,
        rollback: RollbackManager,
        incidents: IncidentLog,
    ) -> None:
        self.options = options
        self.investigator = investigator
        self.isolation = isolation
        self.rollback = rollback
        self._trainer = trainer
        self._history = history
        self._incidents = incidents
        self.rate = RateControl(trainer, options, incidents)
        self.precision = PrecisionControl(trainer, options, incidents)
        self._skipped = self._repaired = self._rollbacks = 0
        self._rolled_back_at: int | None = None
        self._never_good = True
        self._vanished: tuple[str, ...] = ()
        self._stopping = False

    # Before the verdict ---------------------------------------------------------------------------------------------

    def suspects(self, metrics: StepMetrics, signals: Signals) -> bool:
        """Whether a step is worth an experiment, on all ranks alike: it is not sound, or the past says so."""
        moved_too_far = self.rollback.trusted is not None and self._exceeds_limit(metrics, signals)
        return not metrics.sound or moved_too_far or self._replaced(signals) or self._suspects_divergence(signals)

    def examine(self, metrics: StepMetrics, signals: Signals, batch: Any) -> Evidence:
        """Find out what a suspicious step's verdict depends on. Slow; collective.

        Args:
            metrics: The step.
            signals: What the steps before say of it.
            batch: Its newest batch, preprocessed; None when it is gone.
        """
        if self._replaced(signals) or self._moved_to_worse(metrics, signals, batch):
            return Evidence.MOVED_TOO_FAR
        if not metrics.finite:
            bad = not finite(self._trainer.state.lasting())
            return Evidence.STATE_DAMAGED if self._trainer.ranks.all_reduce_max([bad])[0] else Evidence.NONE
        return Evidence.TRUSTED_DO_BETTER if self._diverging(metrics, signals, batch) else Evidence.NONE

    def _replaced(self, signals: Signals) -> bool:
        """Whether the steps before have replaced the weights, and there are others to go back to."""
        replaced = signals.movement is Movement.REPLACED
        return replaced and self.options.divergence and self.rollback.trusted is not None

    def _exceeds_limit(self, metrics: StepMetrics, signals: Signals) -> bool:
        """Whether the steps before have moved the weights too far, by a rate that is not limited yet."""
        too_far = signals.movement is not Movement.USUAL and self.options.divergence
        return too_far and self.rate.exceeded(metrics)

    def _moved_to_worse(self, metrics: StepMetrics, signals: Signals, batch: Any) -> bool:
        """Whether it is such a rate, and the weights before do better: those of a model that was trained before."""
        return self._exceeds_limit(metrics, signals) and not self._gone(batch) and self._trusted_better(batch, _WORSE)

    def _trusted_better(self, batch: Any, times: float = EXCESS) -> bool:
        trusted = self.rollback.trusted
        return trusted is not None and trusted_do_better(self._trainer, batch, trusted, times)

    def _gone(self, batch: Any) -> bool:
        """Whether a batch is gone, on any rank."""
        return bool(self._trainer.ranks.all_reduce_max([batch is None])[0])

    def _suspects_divergence(self, signals: Signals) -> bool:
        """Whether losses have left their range; there must be weights to compare with."""
        suspicious = signals.loss in (LossTrend.SUSPECT, LossTrend.COLLAPSED)
        return suspicious and self.options.divergence and self.rollback.trusted is not None

    def _diverging(self, metrics: StepMetrics, signals: Signals, batch: Any) -> bool:
        if not self._suspects_divergence(signals) or self._gone(batch):
            return False
        if signals.loss is LossTrend.COLLAPSED or self._trusted_better(batch):
            return True
        self._history.loss.accept_level(metrics.image_loss)
        return False

    # A bad step -----------------------------------------------------------------------------------------------------

    def investigate(self, metrics: StepMetrics, verdict: Verdict, evidence: Evidence = Evidence.NONE) -> dict[str, Any]:
        """Find out what made a step bad, before anything is put back. Slow; collective.

        Args:
            metrics: The step.
            verdict: Its verdict.
            evidence: What that rests on. Where the step before is to blame, this one is not looked into.

        Returns:
            Fields of its ``Incident``, the cause among them; the same on every rank.
        """
        if evidence is Evidence.MOVED_TOO_FAR:
            return {"cause": Cause.LEARNING_RATE, "update_ratio": metrics.update_ratio}
        trusted, loss = self.rollback.trusted, self._history.loss
        around = Surroundings(
            trusted=None if trusted is None else partial(in_place, self._trainer, trusted),
            usual_loss=loss.usual,
            elevated=loss.loss_elevated,
        )
        return self.investigator.step(metrics, verdict, around, self._skipped + 1)

    def repair_statistics(self, outcome: Outcome) -> Outcome:
        """Take a step whose gradients are fine, without what it did to the batch-norm statistics. Collective.

        The statistics were rolled back already. When the state behind them is damaged as well, it is repaired, and the
        step, which was made with it, is not taken.
        """
        outcome = replace(outcome, statistics=Settle.ROLLBACK, losses=Settle.COMMIT)
        if repaired := self.rollback.repair_nonfinite():
            facts = {**outcome.facts, "repaired": repaired, "steps_lost": 1}
            return replace(outcome, apply=False, remedies=(Remedy.REPAIRED, Remedy.SKIPPED), facts=facts)
        return replace(outcome, remedies=(Remedy.STATISTICS_RESTORED,))

    def handle_bad_step(self, metrics: StepMetrics, verdict: Verdict, outcome: Outcome) -> Outcome:
        """Do what a bad or diverging step calls for, beside skipping it. Slow; collective.

        Args:
            metrics: The step.
            verdict: Its verdict.
            outcome: The step skipped, with what was found out of it.

        Returns:
            The outcome with the remedies and their numbers.
        """
        self._skipped += 1
        self.rate.count_bad_step()
        facts = dict(outcome.facts)
        situation = Situation(
            verdict=verdict,
            cause=facts.get("cause", Cause.UNKNOWN),
            never_good=self._never_good,
            rising=self._history.loss.loss_elevated,
            skipped=self._skipped,
            repaired=self._repaired,
            rollbacks=self._rollbacks,
            since_rollback=None if self._rolled_back_at is None else metrics.step - self._rolled_back_at,
            snapshot=self.rollback.trusted is not None,
        )
        if verdict is Verdict.POISONED and not situation.snapshot:
            left = (Remedy.SKIPPED, Remedy.LEFT_TO_ULTRALYTICS)
            return replace(outcome, losses=Settle.LEAVE, remedies=left, facts=facts)
        what = plan(situation, self.options)
        remedies, numbers = self._carry_out(what, metrics)
        outcome = replace(outcome, remedies=(Remedy.SKIPPED, *remedies), facts={**facts, **numbers})
        return self._stop(what, outcome) if what.stop else outcome

    def _carry_out(self, what: Plan, metrics: StepMetrics) -> tuple[list[Remedy], dict[str, Any]]:
        """Climb the rungs of a plan; return the remedies and the numbers that go with them."""
        done: list[Remedy] = []
        numbers: dict[str, Any] = {}
        step = metrics.step
        # Weights that a step has replaced cannot be repaired element by element: all of them are wrong.
        repairs = (what.repair or what.rollback) and not what.limit_lr
        repaired = self.rollback.repair_nonfinite() if repairs else 0
        if repaired:  # then nothing else is to blame
            self._repaired += 1
            self._forget_suspicions()
            done.append(Remedy.REPAIRED)
            numbers["repaired"] = repaired
        elif what.rollback:
            back = self.rollback.roll_back(step - 1)
            self._count_rollback(step)
            done.append(Remedy.ROLLED_BACK)
            numbers |= {"snapshot": back.snapshot, "undone": back.undone}
            if what.lower_lr and (lowered := self.rate.lower_after(back, Place.STATE, what.repeated)):
                done += lowered
                numbers["lr_factor"] = self.rate.factor
        if what.limit_lr and (limited := self.rate.limit(metrics)):
            done += limited
            numbers["lr_factor"] = self.rate.factor
        if what.raise_precision and self.precision.count_fault(step):
            done.append(Remedy.PRECISION_RAISED)
            numbers["precision"] = self._trainer.forward_precision
        return done, numbers

    def limit_lr(self, metrics: StepMetrics, signals: Signals, evidence: Evidence = Evidence.NONE) -> None:
        """Lower the learning rate before a step is taken, where those before it moved the weights too far.

        Args:
            metrics: The step.
            signals: What the steps before say of it.
            evidence: What was found out. Steps that are taken back limit the rate when that is done.
        """
        if evidence is not Evidence.MOVED_TOO_FAR and self._exceeds_limit(metrics, signals):
            self.rate.limit(metrics)

    def _stop(self, what: Plan, outcome: Outcome) -> Outcome:
        """End the training: a budget is spent. Told once; trainers may take some steps more."""
        spent = {"budget": what.stop, "count": what.count}
        if what.stop == "hopeless_after":
            outcome = replace(outcome, facts={**outcome.facts, "cause": Cause.EVERY_BATCH})
        if not self._stopping:
            self._incidents.log(Kind.STOP, remedies=(Remedy.STOPPED,), **{**outcome.facts, "steps_lost": 0, **spent})
            outcome = replace(outcome, remedies=(*outcome.remedies, Remedy.STOPPED))
        self._stopping = True
        return replace(outcome, stop=message(Incident(Kind.STOP, **{**outcome.facts, **spent})))

    def _forget_suspicions(self) -> None:
        """The model is another one: what was suspected or found of the one before does not hold."""
        self._history.forgive()
        self.investigator.forget()

    # A validation -----------------------------------------------------------------------------------------------------

    def rescue_validation(self, steps: int, terms: Sequence[str]) -> Callable[[bool], bool] | None:
        """Put trusted weights in place for a validation whose losses are not finite, or absurd. Collective.

        Losses that are merely absurd, while those of the training are not, come from batch-norm statistics that lag
        behind weights which move fast. Where trusted weights show that they do, they follow faster from then on, and
        the weights stay, as long as these move no further than they may. Otherwise the learning rate is too high: it is
        lowered at the first return.

        Args:
            steps: Optimizer steps so far.
            terms: Losses that are not finite; empty where they are absurd.

        Returns:
            What settles it, given whether they helped, and returns whether they stay; a second return to the same
            snapshot, or soon after the first, lowers the learning rate, if that was not done since. Else all is put
            back as it was. None when there are none, or they are not called for.
        """
        moves_as_it_may = not terms and self.rate.moves_as_it_may()
        looked_after = moves_as_it_may and self.rate.looked_after
        if looked_after or self._rollbacks >= self.options.max_rollbacks:
            return None
        lags = moves_as_it_may and self.rate.statistics_lag
        undo_or_keep = self.rollback.rescue_validation(steps)
        if undo_or_keep is None:
            return None

        def settle(helped: bool) -> bool:
            back = undo_or_keep(helped and not lags)
            if back is not None:
                back = replace(back, again=back.again or self._soon_after(steps, back))
                self._count_rollback(steps)
                self.rate.lower_after(back, Place.VALIDATION, repeated=not terms)
            elif helped:
                self._incidents.log(
                    Kind.BATCHNORM_LAG, place=Place.VALIDATION, remedies=self.rate.speed_up_statistics()
                )
            elif terms:
                self._incidents.log(Kind.VALIDATION, place=Place.VALIDATION, term=", ".join(terms))
            return back is not None

        return settle

    def _soon_after(self, step: int, back: Rollback) -> bool:
        """Whether a return for a validation is soon after another one, or one validation after, with the same rate."""
        epoch = self._trainer.planned_steps // self._trainer.epochs
        soon = self._rolled_back_at is not None and step - self._rolled_back_at < max(COOL_DOWN, epoch + 1)
        return soon and not self.rate.lowered_since(back.snapshot)

    def _count_rollback(self, step: int) -> None:
        self._rollbacks += 1
        self._rolled_back_at = step
        self._forget_suspicions()

    # After a step ---------------------------------------------------------------------------------------------------

    def count_safe_step(self, metrics: StepMetrics, signals: Signals, outcome: Outcome) -> None:
        """Count a step that was safe to apply, and take remedies back after enough of them."""
        self._note_vanished(signals.vanished)
        self.investigator.observe(metrics.items)
        self.isolation.count_safe_step()
        self._skipped = self._repaired = 0
        self._never_good = False
        self.rate.note_movement(metrics)
        elevated = self._history.loss.loss_elevated
        self.rollback.count_safe_step(metrics.step, metrics.lr_share * outcome.lr_factor, elevated)
        if elevated:
            return
        self.rate.count_safe_step(metrics)
        self.precision.count_safe_step()

    def _note_vanished(self, stages: tuple[str, ...]) -> None:
        if stages and stages != self._vanished:
            self._incidents.log(Kind.STALLED, stages=list(stages))
        self._vanished = stages

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as plain numbers."""
        return {
            **self.rate.state_dict(),
            "precision": self.precision.state_dict(),
            "rollbacks": self._rollbacks,
            "rolled_back_at": self._rolled_back_at,
            "skipped": self._skipped,
            "healed": self._repaired,
            "never_good": self._never_good,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.rate.load_state_dict(state)
        self._rollbacks, self._rolled_back_at = int(state["rollbacks"]), state["rolled_back_at"]
        self._skipped, self._repaired = int(state["skipped"]), int(state["healed"])
        self._never_good = bool(state.get("never_good", False))
        self.precision.load_state_dict(state["precision"])
