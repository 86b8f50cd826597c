"""Whether a trainer is made as this folder takes it to be.

Nothing keeps a user from a newer Ultralytics than we know. So its source and its attributes are compared with what is
relied upon, at attach, in some milliseconds. What differs is named, and nothing is guessed: such a training runs as
stock and is only observed, or not even that.

Three looks, each at what the others do not see:

- The fingerprint of ``optimizer_step``: the guard stands in for this method, so any change of it counts.
- Attributes and signatures of the trainer at hand: they are read, called and stood in for.
- The order of the training loop, read from its source. The guard counts batches and windows by its events, heals and
  rolls back at them, and reads ``loss_items`` where the loop has set them. A loop of the user's own, or of a newer
  version, that comes to an event elsewhere raises no error: the guard would act on the wrong batch. A fingerprint
  would not do here, as the loop's body also changes in ways that do not matter.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from ultralytics.engine.trainer import BaseTrainer

__all__ = ["KNOWN_STEPS", "Compatibility", "UnsupportedTrainer", "ask", "examine", "fingerprint"]

KNOWN_STEPS = {
    "1f8cd1a26f5efdb9",  # up to 8.4.110, but for 8.3.211
    "e1f8510bf8f2aa89",  # from 8.4.111: an NPU branch
}
"""Fingerprints of the ``BaseTrainer.optimizer_step`` bodies that ``step.py`` can stand in for."""

NEEDED = ("args", "device", "epochs", "save_dir", "model", "optimizer", "scaler", "optimizer_step")
"""Attributes that the guard cannot even observe without."""

WITHOUT: dict[str, Any] = {
    "batch_size": 0,
    "csv": "",
    "data": {},
    "ema": None,
    "loss_names": (),
    "metrics": None,
    "nan_recovery_attempts": 0,
    "resume": False,
    "start_epoch": 0,
    "stop": False,
    "tloss": None,
    "train_loader": None,
    "validator": None,
}
"""Attributes that it acts on, and what an observer takes one for that is not there."""

SET_BY_LOOP: dict[str, Any] = {"loss_items": {}, "lr": {}}
"""The same for those that exist only once the loop has set them, which also sets ``epoch``, ``loss``, ``tloss``."""

CALLS = {
    "optimizer_step": 0,
    "preprocess_batch": 1,
    "validate": 0,
    "on_plot": 1,
    "_handle_nan_recovery": 1,
    "ema.update": 1,
    "scaler.unscale_": 1,
    "scaler.step": 1,
    "scaler.update": 1,
    "scaler.get_backoff_factor": 0,
    "scaler._get_scale_async": 0,
}
"""Methods that are called or stood in for, and with how many arguments."""

LOOP = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "autocast",
    "preprocess_batch",
    "model",
    "backward",
    "optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "validate",
    "_handle_nan_recovery",
    "save_metrics",
    "save_model",
    "on_fit_epoch_end",
    "on_train_end",
)
"""Calls and events of the training loop, in the order in which they are relied upon."""


class UnsupportedTrainer(RuntimeError):
    """A trainer lacks what even an observer needs; the message says what."""


@dataclass(frozen=True)
class Compatibility:
    """What of a trainer is not as it is relied upon, in words."""

    missing: tuple[str, ...]
    """What not even an observer can do without."""
    incompatibilities: tuple[str, ...]
    """What is needed to act."""


def ask(trainer: Any, name: str) -> Any:
    """Return an attribute of a trainer, or what an observer takes it for where there is none."""
    return getattr(trainer, name) if hasattr(trainer, name) else copy(WITHOUT.get(name, SET_BY_LOOP.get(name)))


def examine(trainer: Any) -> Compatibility:
    """Compare a trainer with what this folder relies on.

    Args:
        trainer: A ``BaseTrainer`` at or after ``on_pretrain_routine_end``.
    """
    missing = [f"trainer.{name} is missing" for name in NEEDED if not hasattr(trainer, name)]
    incompatibilities = [f"trainer.{name} is missing" for name in WITHOUT if not hasattr(trainer, name)]
    stock = getattr(BaseTrainer, "optimizer_step", None)
    if stock is not None and _theirs(stock) and fingerprint(stock) not in KNOWN_STEPS:
        incompatibilities.append("the code of BaseTrainer.optimizer_step is unknown")
    incompatibilities += [
        f"trainer.{name} cannot be called as before" for name in CALLS if not _callable(trainer, name)
    ]
    loop = _loop(trainer)
    if loop is None:
        incompatibilities.append("the source of the training loop cannot be read")
    else:
        if "optimizer_step" not in loop.calls:
            missing.append("the training loop does not call optimizer_step")
        missing += _not_set(loop, "epoch", "loss")
        incompatibilities += _not_set(loop, "tloss", *SET_BY_LOOP)
        if moved := _out_of_order(loop.calls):
            incompatibilities.append(f"the training loop does not call {', '.join(moved)} in the known order")
    return Compatibility(tuple(missing), tuple(incompatibilities))


@lru_cache
def fingerprint(function: Callable[..., Any]) -> str:
    """Hash a method's body without its docstring and its layout; empty where there is no source."""
    node = _parsed(function)
    if node is None:
        return ""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return hashlib.sha256("\n".join(map(ast.unparse, body)).encode()).hexdigest()[:16]


def _theirs(function: Callable[..., Any]) -> bool:
    """Whether a method is Ultralytics' own, and not one that the user has put in its place."""
    return function.__module__.partition(".")[0] == "ultralytics"


def _callable(trainer: Any, name: str) -> bool:
    """Whether a method can be called as it is; True where its owner is absent, which is said before."""
    owner, _, method = name.rpartition(".")
    thing = ask(trainer, owner) if owner else trainer
    if thing is None:
        return True
    try:
        inspect.signature(getattr(thing, method)).bind(*range(CALLS[name]))
    except (AttributeError, TypeError):
        return False
    return True


class _Loop(NamedTuple):
    calls: tuple[str, ...]
    """Names of what it calls, and of the events that it comes to, in the order of the source."""
    sets: frozenset[str]
    """Attributes of the trainer that it sets."""


def _loop(trainer: Any) -> _Loop | None:
    """Read the loop that trains: the first ``_do_train`` of the class tree that takes steps."""
    loops = [vars(cls)["_do_train"] for cls in type(trainer).__mro__ if "_do_train" in vars(cls)]
    known = [read for loop in loops if (read := _read(loop))]
    return next((read for read in known if "optimizer_step" in read.calls), known[0] if known else None)


@lru_cache
def _read(function: Callable[..., Any]) -> _Loop | None:
    node = _parsed(function)
    if node is None:
        return None
    parts = list(ast.walk(node))
    calls = sorted((part.lineno, part.col_offset, _name(part)) for part in parts if isinstance(part, ast.Call))
    stores = (part for part in parts if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store))
    return _Loop(
        tuple(name for *_, name in calls), frozenset(part.attr for part in stores if ast.unparse(part.value) == "self")
    )


def _name(call: ast.Call) -> str:
    """Return the name of what is called, and for ``run_callbacks`` that of the event."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "run_callbacks" and call.args and isinstance(call.args[0], ast.Constant):
        return str(call.args[0].value)
    return str(name)


def _not_set(loop: _Loop, *names: str) -> list[str]:
    return [f"the training loop does not set trainer.{name}" for name in names if name not in loop.sets]


def _out_of_order(calls: tuple[str, ...]) -> list[str]:
    """Return the names of ``LOOP`` that do not come after those before them."""
    lost, place = [], 0
    for name in LOOP:
        try:
            place = calls.index(name, place) + 1
        except ValueError:
            lost.append(name)
    return lost


def _parsed(function: Callable[..., Any]) -> ast.FunctionDef | None:
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return node if isinstance(node, ast.FunctionDef) else None
