"""What a Python process under ``gradsafe run`` runs first, because this folder is first on its ``PYTHONPATH``.

It waits for ``ultralytics.engine.trainer``, and lets each training that begins there have a guard. Most processes never
import that: for them it is one comparison an import. Whatever goes wrong here is said on stderr and leaves the training
stock. Only names that are loaded anyway are imported, and the syntax is that of old versions, since the interpreter is
whichever the command chose.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRAINERS = "ultralytics.engine.trainer"


class _Finder:
    """Finds that one module as the finders after it do, and changes it once it is there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's spec; None for every other module, which leaves it to the finders after this one."""
        if name != _TRAINERS:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                _change_when_loaded(spec.loader)
                return spec
        return None


def _change_when_loaded(loader: Any) -> None:
    """Change the module right after its loader has run it."""
    load = getattr(loader, "exec_module", None)
    if load is None or getattr(load, "by_gradsafe", False):
        return

    def exec_module(module: Any) -> None:
        load(module)
        if module.__name__ == _TRAINERS:  # a loader may be shared, as that of pytest is
            _change(module)

    exec_module.by_gradsafe = True  # type: ignore[attr-defined]
    try:
        loader.exec_module = exec_module
    except Exception as error:
        _complain(error)


def _change(module: Any) -> None:
    """Let ``BaseTrainer`` look for a guard before it trains.

    ``_do_train`` runs in the process that trains, and not in the one that only starts others to do so.
    """
    from functools import wraps

    try:
        train = module.BaseTrainer._do_train
    except AttributeError as error:
        _complain(error)
        return

    @wraps(train)  # by which its source is still found
    def _do_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            from yolo_gradsafe.environment import guard_training

            guard_training(self)
        except Exception as error:
            _complain(error)
        return train(self, *args, **kwargs)

    _do_train.by_gradsafe_run = True  # type: ignore[attr-defined]
    module.BaseTrainer._do_train = _do_train


def _complain(error: Exception) -> None:
    """Say, once for all ranks, that a training is stock."""
    if os.environ.get("RANK", "0") in ("0", "-1"):
        hint = ""
        if isinstance(error, ImportError) and str(getattr(error, "name", "")).startswith("yolo_gradsafe"):
            hint = "; install yolo-gradsafe into the environment of " + sys.executable
        told = "gradsafe run: THIS TRAINING IS NOT GUARDED: " + type(error).__name__ + ": " + str(error) + hint
        sys.stderr.write(told + "\n")


def _run_hidden() -> None:
    """Run the ``sitecustomize`` that Python would have found without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    before = list(sys.path)
    this = sys.modules.pop("sitecustomize", None)
    sys.path[:] = [place for place in before if os.path.abspath(place) != here]
    try:
        import sitecustomize  # type: ignore[import-not-found] # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "") != "sitecustomize":
            raise
        if this is not None:
            sys.modules["sitecustomize"] = this
    finally:
        # It stays on the path: a program may hand that on to others. What the other one added stays as well.
        added = [place for place in sys.path if place not in before]
        sys.path[:] = before + added


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _Finder())
    if _TRAINERS in sys.modules:
        _change(sys.modules[_TRAINERS])
    _run_hidden()
