"""One registry of what learns during a training: resume, rank broadcast and snapshots all go by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Learns", "StateRegistry"]


class Learns(Protocol):
    """An object whose state lasts from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt, as strict JSON can hold it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""


class StateRegistry:
    """Knows everything that learns. What learns registers once, when a session is built.

    A resumed run goes on from all of it, and so does a rank that was left behind. What follows the weights is put back
    with them at a rollback; the rest, such as the count of rollbacks, must outlast one.
    """

    def __init__(self) -> None:
        self._parts: dict[str, Learns] = {}
        self._with_weights: set[str] = set()

    def register(self, name: str, part: Learns, follows_weights: bool = False) -> None:
        """Enter a part.

        Args:
            name: Its name in ``state.json``.
            part: The part.
            follows_weights: Whether what it knows belongs to the weights of the time.

        Raises:
            ValueError: There is one of that name.
        """
        if name in self._parts:
            raise ValueError(f"{name} is registered already")
        self._parts[name] = part
        if follows_weights:
            self._with_weights.add(name)

    def __contains__(self, part: object) -> bool:
        """Whether an object is registered."""
        return any(known is part for known in self._parts.values())

    def state_dict(self, with_weights_only: bool = False) -> dict[str, Any]:
        """Return the states of all parts by name.

        Args:
            with_weights_only: Only of those that follow the weights.
        """
        names = [name for name in self._parts if not with_weights_only or name in self._with_weights]
        return {name: self._parts[name].state_dict() for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the parts back what ``state_dict`` returned; those that it does not know keep what they have."""
        for name, part in self._parts.items():
            if name in state:
                part.load_state_dict(state[name])

    def load_parts(self, state: Mapping[str, Any]) -> dict[str, str]:
        """Give the parts what they can use of a state that may be damaged, or of other options.

        Returns:
            Why, by the names of those that could not use theirs and keep what they had.
        """
        failed = {}
        for name, part in self._parts.items():
            before = part.state_dict()
            try:
                part.load_state_dict(state.get(name, before))
            except Exception as error:  # whatever damage may lead to
                part.load_state_dict(before)
                failed[name] = f"{type(error).__name__}: {error}"
        return failed
