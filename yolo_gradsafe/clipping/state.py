"""The state that a clipper goes on from: checks that ignore nothing in it, and what a rule without one inherits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Stateless", "count", "fields", "number", "numbers"]


def fields(state: object, *names: str) -> dict[str, Any]:
    """Return the state when it has exactly these keys.

    Raises:
        ValueError: It is no mapping, or has others.
    """
    if not isinstance(state, Mapping) or set(state) != set(names):
        got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"clipper state: expected the keys {sorted(names)}, got {got}")
    return dict(state)


def number(value: object) -> float:
    """Return the value as a float when it is a finite number.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"clipper state: expected a finite number, got {value!r}")
    return float(value)


def numbers(values: object, above: float = -math.inf) -> list[float]:
    """Return the values as floats when they are a list of finite numbers, all larger than ``above``.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"clipper state: expected a list of numbers, got {values!r}")
    result = [number(value) for value in values]
    if any(value <= above for value in result):
        raise ValueError(f"clipper state: expected numbers over {above}, got {min(result)}")
    return result


def count(value: object) -> int:
    """Return the value when it is a whole number from 0.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"clipper state: expected a count, got {value!r}")
    return value


class Stateless:
    """What a rule inherits that learns nothing from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept nothing.

        Raises:
            ValueError: There is something.
        """
        fields(state)
