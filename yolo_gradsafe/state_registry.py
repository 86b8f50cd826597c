"""What a resumed run goes on from: gathered from the parts that learn, and given back to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from yolo_gradsafe import adapter
from yolo_gradsafe.forensics.investigator import FaultInvestigator
from yolo_gradsafe.step import GuardedStep
from yolo_gradsafe.telemetry.files import read_states

__all__ = ["StateRegistry"]


class _Learns(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StateRegistry:
    """Knows which parts of a training learn.

    Args:
        mode: The clipper's mode; another one cannot go on from its state.
        step: The guarded step.
        investigator: Counts the offences of images.
    """

    def __init__(self, mode: str, step: GuardedStep, investigator: FaultInvestigator) -> None:
        self._mode = mode
        self._step = step
        self._clipper = step.clipper
        self._parts: dict[str, _Learns] = {
            "recovery": step.medic,
            "isolation": step.isolation,
            "vanishing": step.vanishing,
            "forensics": investigator,
        }

    def gather(self) -> dict[str, Any]:
        """Return what was learnt so far, as JSON can hold it."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return {"mode": self._mode, "clipper": self._clipper.state_dict(), **parts}

    def share(self, ranks: adapter.Ranks) -> None:
        """Give every rank what rank 0 goes on from: other machines may not see its files. Collective."""
        if ranks.several:
            learnt = ranks.same({**self.gather(), "steps": self._step.steps})
            self._step.steps = learnt["steps"]
            self._give(learnt)

    def _give(self, state: dict[str, Any]) -> None:
        if state["mode"] == self._mode:
            self._clipper.load_state_dict(state["clipper"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    def recall(self, path: Path, done: int) -> None:
        """Go on from the newest state that is not later than the checkpoint; warn where there is none that fits.

        Args:
            path: The run's ``state.json``; all ranks read the same. Without one there is nothing to go on from.
            done: Epochs that the checkpoint has behind it.
        """
        try:
            states = read_states(path)
            if not states:
                return
            epochs = [epoch for epoch in states if epoch <= done]
            if not epochs:
                adapter.warn(f"{path} holds nothing of epoch {done} or before, clipper and recovery start anew")
                return
            self._give(states[max(epochs)])
        except (OSError, ValueError, KeyError, TypeError) as error:
            adapter.warn(f"{path} cannot be used, clipper and recovery start anew: {error}")
