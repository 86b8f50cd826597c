"""The public interface, frozen: whoever changes a line here changes what users' scripts rely on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer
from pydantic import BaseModel

MODULES = (
    "yolo_gradsafe",
    "yolo_gradsafe.clipping",
    "yolo_gradsafe.data",
    "yolo_gradsafe.probe",
    "yolo_gradsafe.report",
)
PYTHON = """
yolo_gradsafe
    Config
        .{clip, recovery, forensics, telemetry, loggers, report}
        .load(source=None, overrides=None)
        .to_yaml()
    ConfigError
    GradSafe(source=None, **overrides)
        .attach(target)
        .callbacks
        .detach(target=None)
        .on_fit_epoch_end(trainer)
        .on_pretrain_routine_end(trainer)
        .on_pretrain_routine_start(trainer)
        .on_train_batch_end(trainer)
        .on_train_batch_start(trainer)
        .on_train_end(trainer)
        .on_train_epoch_end(trainer)
        .on_train_epoch_start(trainer)
        .teardown(trainer)
        .trainer(base)
    RTDETR(*args, **kwargs)
        .train(trainer=None, *, callbacks=None, **kwargs)
        .tune(*args, callbacks=None, **kwargs)
    Summary
        .{schema_version, status, health, learned, reasons, accuracy, earlier, spike, validation_spike, lowered_rate, headline, run, steps, grad_norm, threshold, amp, incidents, outcomes, advice, epochs, options, damaged_steps, files}
        .json_schema()
        .load(path)
        .save(path)
        .verdict
    YOLO(*args, **kwargs)
        .train(trainer=None, *, callbacks=None, **kwargs)
        .tune(*args, callbacks=None, **kwargs)
    __version__

yolo_gradsafe.clipping
    Clip(threshold, scale)
    Clipper(*args, **kwargs)
        .clip_(gradients, observation)
        .load_state_dict(state)
        .state_dict()
    Observation(norm, tensor_norms, images, unit=1.0)
    build(options, stages=None)
    register(name)

yolo_gradsafe.data
    CheckError
    Finding
        .{kind, message, file, line, annotation, image}
        .place
    Health
        .{schema_version, headline, data, format, classes, keypoints, splits, annotations, imgsz, batch, images_read, complete, kinds, seconds}
        .errors
        .load(path)
        .save(path)
        .to_json()
        .warning
        .warnings
    KindCount
        .{kind, severity, meaning, remedy, count, images, examples}
    PrepareError
    Prepared(data, fresh, notes)
    draw_detect(folder, train=32, val=16, size=128, seed=0)
    draw_pose(folder, train=32, val=16, size=128, seed=0)
    prepare(annotations, task, *, images=None, cache=None, split=None)
    quick_check(data, *, task=None, imgsz=640, batch=16, seconds=10.0, cache=None, single_cls=False)
    run_check(data, *, imgsz=640, batch=16, images=None, read_images=True, sheet=None, task=None, progress=None)

yolo_gradsafe.probe
    ProbeError
    ProbeResult
        .{schema_version, headline, setup, init, lr_range, trial, norms, headroom, advice, seconds}
        .load(path)
        .save(path)
        .to_yaml()
    probe(model, data, out=None, seed=0, range_steps=None, trial_steps=None, budget=120.0, **train_args)
    run_probe(words, out=None, budget=120.0)

yolo_gradsafe.report
    build(run, plot=True, tell=...)
"""  # noqa: E501
COMMANDS = """
gradsafe check DATA --batch --images --imgsz --json --labels-only --out --task
gradsafe compare RUNS --html --open --out
gradsafe config presets
gradsafe config schema
gradsafe config show SOURCE OVERRIDES
gradsafe config validate FILE
gradsafe demo WORDS --folder
gradsafe drill NAMES --data --few --full --jobs --list --model --optimizer --out --precision --quick --resume --seeds --stock --task
gradsafe probe --budget --out
gradsafe replay RUN --device --incident --json --model
gradsafe report RUN --fail-on --format --open --plot --schema --strict
gradsafe run WORDS --config
gradsafe train WORDS
gradsafe watch RUN --every --once
"""  # noqa: E501


def call(name: str, function: Any, leave_out: int = 0) -> str:
    """Return a call's names and defaults, without types; ``...`` for a default that is an object."""
    words, kinds = [], []
    for parameter in [*inspect.signature(function).parameters.values()][leave_out:]:
        keyword_only = parameter.kind is parameter.KEYWORD_ONLY
        if keyword_only and not {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL} & {*kinds}:
            words.append("*")
        kinds.append(parameter.kind)
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = parameter.default
        plain = default is None or isinstance(default, (bool, int, float, str))
        given = "" if default is parameter.empty else f"={default!r}" if plain else "=..."
        words.append(f"{stars}{parameter.name}{given}")
    return f"{name}({', '.join(words)})"


def members(cls: type) -> Iterator[str]:
    """Yield the public methods, properties and fields that a class of ours has, its bases' of ours included."""
    if issubclass(cls, BaseModel):
        yield f".{{{', '.join(cls.model_fields)}}}"
    own = [base for base in cls.__mro__ if base.__module__.startswith("yolo_gradsafe")]
    found = {name: member for base in reversed(own) for name, member in vars(base).items()}
    for name, member in sorted(found.items()):
        if name.startswith("_") or name in getattr(cls, "model_fields", {}):
            continue
        if isinstance(member, property):
            yield f".{name}"
        elif isinstance(member, classmethod):
            yield call(f".{name}", member.__func__, 1)
        elif inspect.isfunction(member):
            yield call(f".{name}", member, 1)


def interface(module: str) -> Iterator[str]:
    """Yield what a module offers, a line a name."""
    home = import_module(module)
    yield module
    for name in sorted(home.__all__):
        value = getattr(home, name)
        ours = inspect.isclass(value) and not issubclass(value, Exception)
        by_call = inspect.isfunction(value) or (ours and not issubclass(value, BaseModel))
        yield "    " + (call(name, value) if by_call else name)
        if ours:
            yield from (f"        {line}" for line in members(value))


def commands() -> Iterator[str]:
    """Yield the commands with their arguments and options, a line a command."""
    from yolo_gradsafe.cli import app

    def walk(command: Any, name: str) -> Iterator[str]:
        for word, child in sorted(getattr(command, "commands", {}).items()):
            yield from walk(child, f"{name} {word}")
        if not getattr(command, "commands", {}):
            arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
            options = [p.opts[0] for p in command.params if p.param_type_name == "option"]
            yield " ".join([name, *arguments, *sorted(options)])

    yield from walk(typer.main.get_command(app), "gradsafe")


@pytest.mark.parametrize("module", MODULES)
def test_python_interface(module):
    frozen = {block.splitlines()[0]: block.splitlines() for block in PYTHON.strip().split("\n\n")}
    assert [*interface(module)] == frozen[module]


def test_command_line_interface():
    assert [*commands()] == COMMANDS.strip().splitlines()
