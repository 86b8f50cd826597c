"""The names of the clipping rules, and the rules that users add; imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.base import Clipper

__all__ = ["BUILT_IN", "mode_names", "register", "registered"]

BUILT_IN = ("norm", "value", "agc", "percentile", "zscore", "adagc", "auto", "none")

_registered: dict[str, type[Clipper]] = {}
_METHODS = ("clip_", "state_dict", "load_state_dict")

Rule = TypeVar("Rule", bound="type[Clipper]")


def register(name: str) -> Callable[[Rule], Rule]:
    """Make a class with the methods of ``Clipper`` selectable as ``clip.mode``.

    Its constructor is called with ``clip.options`` as keywords. Registering a name again replaces the class, so that a
    notebook cell can be run twice. The options carry the class itself, so it reaches DDP workers with them.

    Args:
        name: The mode's name; not one of the built-in ones.

    Returns:
        A decorator that returns the class as it is.

    Raises:
        ValueError: The name is a built-in mode.
        TypeError: The class lacks a method of ``Clipper``.
    """
    if name in BUILT_IN:
        raise ValueError(f"clip mode '{name}' is built in; choose another name")

    def add(rule: Rule) -> Rule:
        if missing := [method for method in _METHODS if not callable(getattr(rule, method, None))]:
            raise TypeError(f"clip mode '{name}': {rule!r} has no {', '.join(missing)}")
        _registered[name] = rule
        return rule

    return add


def registered(name: str) -> type[Clipper] | None:
    """Return the class that a user registered under a name; None for built-in and unknown ones."""
    return _registered.get(name)


def mode_names() -> list[str]:
    """List what ``clip.mode`` accepts."""
    return [*BUILT_IN, *sorted(_registered)]
