"""One registry of what learns, and that nothing learns beside it."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import math
import textwrap
import types
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fake_trainer import Core, Tiny, batch_of, nan_batch
from yolo_gradsafe.state_registry import StateRegistry


class Learns:
    """A part with one number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def test_states_come_and_go_by_name():
    registry, one, two = StateRegistry(), Learns(1), Learns(2)
    registry.register("one", one)
    registry.register("two", two)
    state = registry.state_dict()
    assert state == {"one": {"value": 1}, "two": {"value": 2}}
    one.value = two.value = 9
    registry.load_state_dict(state)
    assert (one.value, two.value) == (1, 2)


def test_what_follows_the_weights_is_known():
    registry = StateRegistry()
    registry.register("clipper", Learns(1), follows_weights=True)
    registry.register("rollbacks", Learns(2))
    assert registry.state_dict(with_weights_only=True) == {"clipper": {"value": 1}}


def test_a_part_that_a_state_does_not_know_keeps_what_it_has():
    registry, part = StateRegistry(), Learns(3)
    registry.register("new in this version", part)
    registry.load_state_dict({"gone since": {"value": 1}})
    assert part.value == 3


def test_a_part_that_cannot_use_its_state_keeps_what_it_has_and_the_others_get_theirs():
    class Two(Learns):
        other = 4

        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "other": self.other}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            super().load_state_dict(state)
            self.other = state["other"]

    registry, parts = StateRegistry(), [Learns(1), Two(2), Learns(3), Learns(4)]
    for name, part in zip(("one", "half", "three", "unknown"), parts, strict=True):
        registry.register(name, part)
    failed = registry.load_parts({"one": {"value": 10}, "half": {"value": 20}, "three": {"value": 30}})
    assert failed == {"half": "KeyError: 'other'"}
    assert [part.value for part in parts] == [10, 2, 30, 4]


def test_a_name_is_taken_once():
    registry = StateRegistry()
    registry.register("clipper", Learns())
    with pytest.raises(ValueError, match="clipper is registered already"):
        registry.register("clipper", Learns())


def test_parts_are_known_by_what_they_are_and_not_by_what_they_equal():
    class Equal(Learns):
        __hash__ = None

        def __eq__(self, other: object) -> bool:
            return True

    registry, part = StateRegistry(), Equal()
    registry.register("part", part)
    assert part in registry
    assert Equal() not in registry


# What learns registers once ------------------------------------------------------------------------------------------

KEPT_ELSEWHERE = {
    "Recorder": "the records: on disk, and read back by Recorder.start",
    "Files": "the records",
    "RunLog": "the counts of a report",
    "EpochLog": "an epoch's counts",
    "LayerLog": "an epoch's counts",
    "RunInfo": "the records",
    "IncidentLog": "which kinds were shown on the console, and how many were written",
    "Progress": "where the training stands: from the records' last step, and the trainer's epoch",
    "ErrorBoundary": "faults of the plugin, each told once a process",
    "RankSync": "whether this rank has failed since the last step",
    "GuardedStep": "why training has to end, which it does within the epoch",
    "Session": "how often Ultralytics had repaired the training by the epoch before",
    "AccumulationWindow": "the step under way",
    "UpdateRatioSampler": "a sample that waits for the next step, for the records alone",
    "LayerGroups": "a cache of which tensor belongs where",
    "Measurement": "the trainer's own tensors, taken anew at the start",
    "Savepoint": "the trainer's own tensors, taken anew at the start",
    "BufferSavepoint": "the trainer's own tensors, taken anew at the start",
    "LossSavepoint": "the losses shown in this epoch",
    "SnapshotBuffer": "snapshots: too large for a message or state.json, and taken anew",
    "Snapshot": "the same",
    "HostArena": "the same",
    "StockStep": "the threshold that the records show of a step that is not clipped",
    "TrainerAdapter": "the precision of the newest forward pass; that which it is raised to is the manager's",
    "SafeValidation": "the precision of validations, found again by the next one",
}
"""Classes that change from step to step and are not registered, with the reason."""

LEFT_OUT = {
    "RecoveryManager": {
        "_cause": "looked into again at the next bad step",
        "_vanished": "a stage that has vanished is told once more",
        "_stopping": "a training that is over is not resumed",
    },
    "RateControl": {"_peak_ratio": "how far the newest step has moved the weights"},
    "RollbackManager": {
        "_buffer": "snapshots are taken anew",
        "_returned_to": "the step of a snapshot that is gone with the process",
        "needs_first_snapshot": "snapshots are taken anew",
        "unsound_snapshot": "snapshots are taken anew",
    },
    "Isolation": {"_good": "the step under way"},
    "LossTrendMonitor": {"_largest_norm": "made of the norms"},
}
"""Attributes of registered parts that their state leaves out, with the reason."""


def walk(root: object) -> Iterator[object]:
    """Yield the objects of the package that are reachable from one of them, each once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (dict, types.MappingProxyType)):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            waiting += list(thing)
        elif isinstance(thing, types.MethodType):
            waiting.append(thing.__self__)
        elif isinstance(thing, types.FunctionType):  # what a closure holds is reached, too
            waiting += [cell.cell_contents for cell in thing.__closure__ or ()]
        elif ours(thing):
            yield thing
            waiting += list(attributes(thing).values())


def ours(thing: object) -> bool:
    of_package = type(thing).__module__.partition(".")[0] in {"yolo_gradsafe", __name__.partition(".")[0]}
    return of_package and not isinstance(thing, (type, Enum, Path, torch.nn.Module, Tiny))


def attributes(thing: object) -> dict[str, Any]:
    slots = {name: getattr(thing, name) for name in getattr(type(thing), "__slots__", ()) if hasattr(thing, name)}
    return {**slots, **getattr(thing, "__dict__", {})}


def learnt(thing: object) -> dict[str, Any]:
    """Return a copy of what an object keeps in numbers, texts and collections, arrays and tensors."""
    return {name: _plain(value) for name, value in attributes(thing).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):  # a weight is the trainer's
        return ("tensor", value.detach().tolist())
    if isinstance(value, np.ndarray):
        return ("array", value.tolist())
    if isinstance(value, (dict, Counter)):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if value is None or isinstance(value, (bool, int, float, str, Enum)):
        return copy.copy(value)
    return type(value).__name__  # what it holds is looked at where it is reached


def course(core: Core) -> None:
    """Take a training through healthy steps, bad ones, a repair, a rollback and the end of an epoch."""
    core.train(22)
    core.raw.take(nan_batch())
    core.raw.take(batch_of(1, spread=30.0))
    core.raw.take(batch_of(2), nan_batch(3))
    core.raw.model.conv.bias.data[0] = math.nan
    core.raw.take(batch_of(4))
    core.rollback.roll_back(26)
    core.recovery.rate._lr.lower()
    core.train(3, start=5)
    core.raw.run_callbacks("on_train_epoch_end")


def guarded(folder: Path, mode: str = "auto") -> Core:
    return Core(folder, clip={"mode": mode})


def parts_of(core: Core) -> list[object]:
    """Return the registered parts, and those that they are made of and whose state is in theirs."""
    found, waiting = [], [*core.registry._parts.values()]
    while waiting:
        part = waiting.pop(0)
        if not any(part is known for known in found):
            found.append(part)
            waiting += [inner for inner in _values_of(part) if _is_part(inner, part)]
    return found


def _values_of(thing: object) -> Iterator[object]:
    for value in attributes(thing).values():
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]


def _is_part(thing: object, of: object) -> bool:
    """Whether an object has a state of its own, or is a small one that the part's own file defines."""
    if isinstance(thing, StateRegistry) or not ours(thing):
        return False
    private = type(thing).__name__.startswith("_") and type(thing).__module__ == type(of).__module__
    return private or hasattr(thing, "load_state_dict")


def changing(core: Core) -> list[tuple[object, list[str]]]:
    """Return the objects of a session that a course of training changes, each with the attributes that it does."""
    before = [(thing, learnt(thing)) for thing in walk(core.session)]
    course(core)
    known = {id(thing) for thing, _ in before}
    late = [(thing, {}) for thing in walk(core.session) if id(thing) not in known]
    changed = []
    for thing, old in [*before, *late]:
        new = learnt(thing)
        names = [name for name in new if name not in old or old[name] != new[name]]
        if names:
            changed.append((thing, names))
    return changed


@pytest.mark.parametrize("mode", ["auto", "zscore", "norm"])
def test_what_learns_registers(tmp_path, mode):
    core = guarded(tmp_path, mode)
    changed = changing(core)
    registered = {id(part) for part in parts_of(core)}
    frozen = {id(thing) for thing, _ in changed if is_dataclass(thing) and type(thing).__dataclass_params__.frozen}
    beside = {
        type(thing).__name__: names
        for thing, names in changed
        if id(thing) not in registered | frozen and type(thing).__name__ not in KEPT_ELSEWHERE
    }
    assert not beside, "it learns: register it, or say here why not"
    assert {type(part).__name__ for part in parts_of(core)} >= {"RecoveryManager", "LossTrendMonitor"}
    assert any(id(thing) in registered for thing, _ in changed), "the course teaches something"


def test_what_has_a_state_registers(tmp_path):
    core = guarded(tmp_path)
    course(core)
    registered = {id(part) for part in parts_of(core)}
    beside = [
        type(thing).__name__
        for thing in walk(core.session)
        if hasattr(thing, "load_state_dict") and not isinstance(thing, StateRegistry) and id(thing) not in registered
    ]
    assert not beside


def assigned(thing: object) -> set[str]:
    """Return the attributes that the methods of an object's class assign, but for its making and its loading."""
    found: set[str] = set()
    for cls in type(thing).__mro__:
        if cls.__module__.startswith("yolo_gradsafe"):
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
            methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            for method in methods:
                if method.name not in {"__init__", "load_state_dict"}:
                    stores = (n for n in ast.walk(method) if isinstance(n, ast.Attribute))
                    found |= {n.attr for n in stores if isinstance(n.ctx, ast.Store) and ast.unparse(n.value) == "self"}
    return found


def unlike(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else 2 * value + 1 if math.isfinite(value) else 3.0


@pytest.mark.parametrize("mode", ["auto", "zscore", "norm"])
def test_the_state_of_a_part_is_all_that_it_learns(tmp_path, mode):
    """A session that is given the state of another knows all that the other does, whatever that is."""
    core, other = guarded(tmp_path / "one", mode), guarded(tmp_path / "other", mode)
    course(core)
    parts = parts_of(core)
    for part in parts:
        for name in assigned(part) & attributes(part).keys():
            value = getattr(part, name)
            if isinstance(value, (bool, int, float)):
                setattr(part, name, unlike(value))
    other.registry.load_state_dict(json.loads(json.dumps(core.registry.state_dict(), allow_nan=False)))
    for part, twin in zip(parts, parts_of(other), strict=True):
        known, taken_over = learnt(part), learnt(twin)
        lost = {name for name in known if name in taken_over and known[name] != taken_over[name]}
        assert lost <= set(LEFT_OUT.get(type(part).__name__, ())), type(part).__name__


def test_the_reasons_are_of_classes_that_there_are(tmp_path):
    core = guarded(tmp_path)
    course(core)
    there = {type(thing).__name__ for thing in walk(core.session)}
    assert set(KEPT_ELSEWHERE) <= there
    assert set(LEFT_OUT) <= {type(part).__name__ for part in parts_of(core)}
