"""Trainer classes that bring their guard along: ``model.train(trainer=guard.trainer(DetectionTrainer))``.

Callbacks do not reach every process that Ultralytics starts; the trainer's class does, imported by module and name. A
class made here is found under its name in this module by every process that comes from this one: what it is made of
stands in an environment variable.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib import import_module
from typing import Any, ClassVar

from yolo_gradsafe import adapter
from yolo_gradsafe.clipping.clip_options import ClipOptions
from yolo_gradsafe.config import Config

__all__ = ["VARIABLE", "guarded"]

VARIABLE = "GRADSAFE_TRAINERS"
"""Environment variable: JSON, from the name of a class to its base, its guard's class and options, and imports."""


class _Guarded:
    """The part of a trainer that attaches the guard as soon as there is a trainer."""

    gradsafe_guard: ClassVar[adapter.Guard]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        adapter.attach_for_this_training(self, lambda: self.gradsafe_guard)


def guarded(base: type[Any], guard: adapter.Guard, config: Config) -> type[Any]:
    """Make a trainer class with a guard.

    Args:
        base: An Ultralytics trainer class.
        guard: The guard; in other processes a new one of its class, made from the same options.
        config: Its options.

    Raises:
        TypeError: The base is no trainer class.
    """
    if not adapter.is_trainer_class(base):
        raise TypeError(f"expected a trainer class of Ultralytics, such as DetectionTrainer; got {base!r}")
    rules = [rule for rule in _rules(config.clip) if rule is not None]
    if not all(map(_importable, [base, type(guard), *rules])):
        # What the script itself defines can be shipped (8.4.140 and newer do) but not imported.
        return _make(f"Guarded{base.__name__}", base, guard, module="__main__")
    recipe = {
        "base": _reference(base),
        "guard": _reference(type(guard)),
        "rules": sorted({rule.__module__ for rule in rules}),
        "options": config.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    name = f"Guarded{base.__name__}_{digest}"
    os.environ[VARIABLE] = json.dumps({**_recipes(), name: recipe})
    return _make(name, base, guard)


def _make(name: str, base: type[Any], guard: adapter.Guard, module: str = __name__) -> type[Any]:
    about = {"__module__": module, "__qualname__": name, "__doc__": base.__doc__, "gradsafe_guard": guard}
    made = type(name, (_Guarded, base), about)
    if module == __name__:
        globals()[name] = made  # what is pickled by reference must be what is found
    return made


def _rules(clip: ClipOptions) -> list[type[Any] | None]:
    return [clip.rule, *(clip.rule_for(key).rule for key in clip.stages)]


def _importable(kind: type[Any]) -> bool:
    return kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__


def _reference(kind: type[Any]) -> list[str]:
    return [kind.__module__, kind.__qualname__]


def _found(reference: list[str]) -> Any:
    """Import what a reference names."""
    module, place = reference
    found: Any = import_module(module)
    for part in place.split("."):
        found = getattr(found, part)
    return found


def _recipes() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.environ.get(VARIABLE, "{}"))
    return found


def __getattr__(name: str) -> type[Any]:
    """Find a class that a process before this one has made."""
    recipe = _recipes().get(name) if name.startswith("Guarded") else None
    if recipe is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in recipe["rules"]:  # which registers them
        import_module(module)
    return _make(name, _found(recipe["base"]), _found(recipe["guard"])(recipe["options"]))
