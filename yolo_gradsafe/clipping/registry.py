"""How a clipping rule gets its name: the built-in rules, and those that users add; imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from yolo_gradsafe.config_base import Section

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.base import Clipper
    from yolo_gradsafe.clipping.clip_options import SharedOptions

__all__ = [
    "BuiltIn",
    "RuleSection",
    "Stages",
    "aliases",
    "built_in",
    "built_in_rules",
    "mode_names",
    "register",
    "registered",
]

Stages = Mapping[str, str]
"""Stage of each parameter (``backbone``, ``neck``, ``head.box``), by the parameter's name."""


class RuleSection(Section):
    """The options of one built-in rule, and how its clipper is built from them.

    The options are read before torch is imported, so a rule's file imports torch inside its methods.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    """Which of ``warmup_steps``, ``patience`` and ``ceiling`` the rule uses; the descriptions of these name it."""

    @abstractmethod
    def build(self, shared: SharedOptions, stages: Stages) -> Clipper:
        """Build the clipper.

        Args:
            shared: The options that are not of one rule alone, such as ``max_norm``.
            stages: Stage of each parameter, for options that name parts of the model.

        Raises:
            ConfigError: An option names a part that the model does not have.
        """


@dataclass(frozen=True)
class BuiltIn:
    """A built-in rule, as the options list it."""

    mode: str
    """Its name in ``clip.mode``; its options are the section of the same name."""
    summary: str
    """What it does, in a few words, for the description of ``clip.mode``."""
    heading: str
    """What it is, for the description of its section."""
    position: int
    """Its place in the options; rules with the same one are listed by name."""
    section: type[RuleSection]
    aliases: tuple[str, ...] = ()
    """Other names that ``clip.mode`` takes for it, in lower case with underscores."""


_built_in: dict[str, BuiltIn] = {}
_registered: dict[str, type[Clipper]] = {}
_METHODS = ("clip_", "state_dict", "load_state_dict")

OwnSection = TypeVar("OwnSection", bound=type[RuleSection])
Rule = TypeVar("Rule", bound="type[Clipper]")


def built_in(
    mode: str, summary: str, heading: str | None = None, position: int = 50, aliases: tuple[str, ...] = ()
) -> Callable[[OwnSection], OwnSection]:
    """Make a rule in ``clipping/rules/`` selectable as ``clip.mode``; decorates the section of its options.

    Args:
        mode: The mode's name.
        summary: What the rule does, for the description of ``clip.mode``.
        heading: What it is, for the description of its section; default: the summary.
        position: Its place among the rules.
        aliases: Other names for it, in lower case with underscores.

    Returns:
        A decorator that returns the class as it is.

    Raises:
        ValueError: Another file has taken the name.
    """

    def add(section: OwnSection) -> OwnSection:
        if (other := _built_in.get(mode)) and other.section.__module__ != section.__module__:
            raise ValueError(f"clip mode '{mode}' is in {other.section.__module__} already")
        _built_in[mode] = BuiltIn(mode, summary, heading or summary, position, section, aliases)
        return section

    return add


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
    if name in _built_in:
        raise ValueError(f"clip mode '{name}' is built in; choose another name")

    def add(rule: Rule) -> Rule:
        if missing := [method for method in _METHODS if not callable(getattr(rule, method, None))]:
            raise TypeError(f"clip mode '{name}': {rule!r} has no {', '.join(missing)}")
        _registered[name] = rule
        return rule

    return add


def built_in_rules() -> list[BuiltIn]:
    """List the built-in rules in the order in which options, presets and docs have them."""
    return sorted(_built_in.values(), key=lambda rule: (rule.position, rule.mode))


def registered(name: str) -> type[Clipper] | None:
    """Return the class that a user registered under a name; None for built-in and unknown ones."""
    return _registered.get(name)


def aliases() -> dict[str, str]:
    """Return the modes of the built-in rules by their other names: ``{"autoclip": "percentile"}``."""
    return {alias: rule.mode for rule in built_in_rules() for alias in rule.aliases}


def mode_names() -> list[str]:
    """List what ``clip.mode`` accepts."""
    return [*(rule.mode for rule in built_in_rules()), *sorted(_registered)]
