"""Carries out what ``LearningRate`` decides, lets batch-norm statistics keep up meanwhile, and tells both."""

from __future__ import annotations

import math
from typing import Any

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.judge.movement import SUITABLE, SUITABLE_PRETRAINED
from yolo_gradsafe.judge.verdict import StepMetrics
from yolo_gradsafe.recovery.batchnorm_momentum import BatchNormMomentum
from yolo_gradsafe.recovery.learning_rate import BLAMELESS, LearningRate, hold_steps
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.rollback import Rollback
from yolo_gradsafe.telemetry.incident_log import IncidentLog
from yolo_gradsafe.telemetry.schema import Cause, Kind, Place, Remedy

__all__ = ["RateControl"]


class RateControl:
    """Lowers the learning rate and the lag of batch-norm statistics together, and takes both back together.

    Args:
        trainer: The trainer.
        options: ``lr_backoff``, by which the rate is lowered, and ``lr_hold``, the steps that it stays low.
        incidents: Where to say what was done.
    """

    def __init__(self, trainer: TrainerAdapter, options: RecoveryOptions, incidents: IncidentLog) -> None:
        suitable = SUITABLE_PRETRAINED if trainer.pretrained else SUITABLE
        self._trainer = trainer
        self._incidents = incidents
        self._may_lower = options.lr_backoff < 1
        self._lr = LearningRate(options.lr_backoff, hold_steps(options.lr_hold, trainer.planned_steps), suitable)
        self._batchnorm = BatchNormMomentum(trainer.model, lambda: trainer.averaged_model)
        self._peak_ratio = math.nan
        self._lowered_at = 0

    @property
    def factor(self) -> float:
        """What the host's learning rate is multiplied with."""
        return self._lr.factor

    # What is known of the rate ----------------------------------------------------------------------------------------

    def exceeded(self, metrics: StepMetrics) -> bool:
        """Whether ``limit`` would lower the rate for a step that moved the weights too far."""
        return self._may_lower and self._lr.exceeded(metrics.peak_update_ratio)

    def moves_as_it_may(self) -> bool:
        """Whether steps move the weights no further than they may.

        Those of a rate that is lowered do; and so does MuSGD, whose steps are as large whatever the gradients. The
        newest step of which it is known tells. Where it is known of none, the rate is not blamed: to let statistics
        follow faster does no harm, and a rate that does is seen by the next steps.
        """
        return self.factor < 1 or self._trainer.has_muon or not self._lr.moves_too_far(self._peak_ratio)

    def lowered_since(self, snapshot: int) -> bool:
        """Whether the rate was lowered after the step of a snapshot, and has had no time to show whether that helps."""
        return self._lowered_at > snapshot

    @property
    def statistics_lag(self) -> bool:
        """Whether batch-norm statistics could follow faster than they do."""
        return self._batchnorm.slow

    @property
    def looked_after(self) -> bool:
        """Whether the rate is lowered already, or statistics follow faster."""
        return self._batchnorm.raised or self.factor < 1

    # Remedies ---------------------------------------------------------------------------------------------------------

    def limit(self, metrics: StepMetrics) -> tuple[Remedy, ...]:
        """Lower the rate to what moves the weights as it should; return the remedies, none if it is that."""
        if not self._may_lower or not self._lr.limit(metrics.peak_update_ratio):
            return ()
        self._lowered_at = metrics.step
        remedies = (Remedy.LR_LOWERED, *self.speed_up_statistics())
        self._incidents.log(
            Kind.LR_BACKOFF,
            remedies=remedies,
            cause=Cause.LEARNING_RATE,
            lr_factor=self.factor,
            update_ratio=metrics.update_ratio,
        )
        return remedies

    def lower_after(self, back: Rollback, place: Place, repeated: bool = False) -> tuple[Remedy, ...]:
        """Lower the rate if it is to blame for a rollback; return the remedies, none if it is not.

        Args:
            back: The rollback.
            place: Where it was seen to be needed, for the incident.
            repeated: Lower it whatever the movement of the weights says.
        """
        bearable = self._lr.bearable(back.peak_update_ratio)
        to_blame = bearable < BLAMELESS and not self.lowered_since(back.snapshot)
        if not (to_blame or back.again or repeated) or not self._may_lower:
            return ()
        self._lr.lower(bearable)
        self._lowered_at = back.snapshot + back.undone
        remedies = (Remedy.LR_LOWERED, *self.speed_up_statistics())
        self._incidents.log(Kind.LR_BACKOFF, place=place, remedies=remedies, lr_factor=self.factor, count=back.again)
        return remedies

    def speed_up_statistics(self) -> tuple[Remedy, ...]:
        """Let batch-norm statistics follow the weights faster; return the remedy, none if they do already."""
        return (Remedy.BATCHNORM_MOMENTUM_RAISED,) if self._batchnorm.raise_momentum() else ()

    # From step to step ------------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Look after an EMA that Ultralytics' own recovery has made anew."""
        self._batchnorm.restore_averaged()

    def follow_user(self, metrics: StepMetrics) -> None:
        """Keep what is allowed where the user has changed the learning rate, before a step is taken with it.

        Theirs may be low enough now, and need no lowering by us; or no longer, and need it again.
        """
        before = self.factor
        self._lr.follow(metrics.lr_peak)
        if before < self.factor == 1:
            self._note_restored()
        elif self.factor < before == 1:
            self._batchnorm.raise_momentum()

    def count_bad_step(self) -> None:
        """Start the wait for healthy steps anew."""
        self._lr.restart_hold()

    def note_movement(self, metrics: StepMetrics) -> None:
        """Remember how far a safe step has moved the weights, where that is known."""
        if not math.isnan(metrics.peak_update_ratio):
            self._peak_ratio = metrics.peak_update_ratio

    def count_safe_step(self, metrics: StepMetrics) -> None:
        """Count a safe step while losses are in their range; the rate may grow, and is told when it is back."""
        if self._lr.count_safe_step(metrics.peak_update_ratio, metrics.lr_share):
            self._note_restored()

    def _note_restored(self) -> None:
        """Tell that the learning rate is back; at its planned value the statistics need not follow faster either."""
        self._incidents.log(Kind.LR_RAMP, remedies=(Remedy.LR_RESTORED,), lr_factor=self.factor)
        if self.factor == 1:
            self._batchnorm.restore()

    def close(self) -> None:
        """Leave the model as it was: the training is over."""
        self._batchnorm.restore()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as plain numbers."""
        return {
            "lr": self._lr.state_dict(),
            "lowered_at": self._lowered_at,
            "batchnorm_momentum_raised": self._batchnorm.raised,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._lr.load_state_dict(state["lr"])
        self._lowered_at = int(state.get("lowered_at", 0))
        if state.get("batchnorm_momentum_raised"):
            self._batchnorm.raise_momentum()
        else:
            self._batchnorm.restore()
