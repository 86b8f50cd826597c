"""What the steps before say of this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yolo_gradsafe.judge.batchnorm import BatchNormMonitor
from yolo_gradsafe.judge.loss_trend import LossTrendMonitor
from yolo_gradsafe.judge.movement import Movement, MovementMonitor
from yolo_gradsafe.judge.vanishing import VanishingMonitor
from yolo_gradsafe.judge.verdict import Signals, StepMetrics

__all__ = ["History"]


class History:
    """Follows losses, norms, stages, updates and batch-norm statistics. Plain numbers; knows no trainer.

    Args:
        stages: Names of the stages.
        follow: Follow losses, stages and updates; without it only the batch-norm statistics.
    """

    def __init__(self, stages: Sequence[str], follow: bool = True) -> None:
        self.loss = LossTrendMonitor()
        self.batchnorm = BatchNormMonitor()
        self.movement = MovementMonitor()
        self.vanishing = VanishingMonitor(stages)
        self._follow = follow

    def observe(self, metrics: StepMetrics) -> Signals:
        """Take in a step, once, and say how it looks; one that is not finite tells of the step before alone."""
        movement = self.movement.observe(metrics.update_ratio) if self._follow else Movement.USUAL
        if not metrics.finite:
            return Signals(movement=movement)
        unsound = 0 if metrics.sound else self.batchnorm.count_unsound()
        if not self._follow:
            return Signals(unsound_steps=unsound)
        trend = self.loss.observe(metrics.image_loss, metrics.grad_norm)
        vanished = self.vanishing.observe(metrics.stage_norms)
        return Signals(trend, tuple(vanished), unsound, movement)

    def commit(self, metrics: StepMetrics) -> None:
        """Take the batch-norm statistics of a good step as the usual ones."""
        self.batchnorm.commit(metrics.batchnorm_norm)

    def forgive(self) -> None:
        """Drop what was suspected: the model is another one, the data are the same."""
        self.loss.forgive()
        self.batchnorm.forgive()

    def follow_model(self, stages: Sequence[str]) -> None:
        """Go on with a model of other layers; a stage of the same name keeps its level.

        Args:
            stages: Names of its stages.
        """
        self.forgive()
        self.batchnorm.forget()
        known = self.vanishing.state_dict()
        self.vanishing = VanishingMonitor(stages)
        self.vanishing.load_state_dict(known)

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as JSON can hold it."""
        return {
            "loss": self.loss.state_dict(),
            "batchnorm": self.batchnorm.state_dict(),
            "movement": self.movement.state_dict(),
            "vanishing": self.vanishing.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.loss.load_state_dict(state["loss"])
        self.batchnorm.load_state_dict(state["batchnorm"])
        if "movement" in state:
            self.movement.load_state_dict(state["movement"])
        self.vanishing.load_state_dict(state["vanishing"])
