"""``gradsafe run``: any command, unchanged, with a guard on every Ultralytics training in it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from yolo_gradsafe.cli.app import app, explained
from yolo_gradsafe.config import Config, parse_value, preset_names
from yolo_gradsafe.config_errors import ConfigError
from yolo_gradsafe.environment import guarded_environment

__all__ = ["isolated"]

SOURCE = "GRADSAFE_CONFIG"
"""Environment variable that stands for ``--config``."""
NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""Exit codes of a command that cannot be started, as a shell has them."""

_PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?")
_TAKES_VALUE = re.compile(r"-[a-zA-Z]*[WX]")


@app.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
    help="Run any command, unchanged, and guard every Ultralytics training in it and in the processes it "
    "starts.\n\nUse it where you cannot pass callbacks: 'yolo train', scripts that you cannot edit, torchrun, "
    "model.tune(). A training that already has a guard keeps it. Write options of the guard before the command, as "
    "--SECTION.OPTION=VALUE; 'gradsafe config show' lists them.\n\nExit codes: those of the command; 2 wrong options "
    "(it is not started), 126 and 127 it cannot be started.\n\nExample: gradsafe run --config detect --clip.max_norm=5 "
    "yolo train model=yolo26n.pt data=coco8.yaml",
)
def run(
    config: Annotated[
        str | None,
        typer.Option(
            help="A preset or a YAML file of options.",
            envvar=SOURCE,
            metavar="PRESET|FILE",
            autocompletion=preset_names,
        ),
    ] = None,
    words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", show_default=False)] = None,
) -> None:
    """Run any command with a guard on every training in it."""
    with explained(ConfigError):
        overrides, command = _split(words or [])
        resolved = Config.load(config or None, overrides)
        _check_command(command)
    _tell_isolated(command)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        _become(command, guarded_environment(resolved, os.environ))
    except OSError as error:
        typer.echo(f"error: cannot run {command[0]}: {error.strerror}", err=True)
        raise typer.Exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE) from None


def _split(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Part the guard's options from the command after them."""
    overrides: dict[str, Any] = {}
    for place, word in enumerate(words):
        if not word.startswith("-"):
            return overrides, list(words[place:])
        key, equals, value = word.lstrip("-").partition("=")
        if not equals:
            raise ConfigError(f"'{word}': expected --SECTION.OPTION=VALUE, e.g. --clip.max_norm=5, before the command")
        overrides[key.removeprefix("gradsafe.")] = parse_value(value)
    return overrides, []


def _check_command(command: list[str]) -> None:
    """Say what is wrong with a command that cannot be meant so."""
    if not command:
        raise ConfigError("the command is missing, e.g. gradsafe run yolo train model=yolo26n.pt data=coco8.yaml")
    name = command[0]
    if "=" in name:
        raise ConfigError(
            f"'{name}' is no command. Write options of the guard as --clip.max_norm=5, before the command. "
            "Write training arguments after 'gradsafe run yolo train' or 'gradsafe train'."
        )
    if Path(name).stem == "gradsafe":
        raise ConfigError("'gradsafe' commands are guarded already: leave out 'run'")
    if name.endswith(".py") and not shutil.which(name):
        raise ConfigError(f"'{name}' is no program. Did you mean 'gradsafe run python {shlex.join(command)}'?")


def _become(command: list[str], environment: dict[str, str]) -> None:
    """Run the command in the place of this process: its signals, terminal and exit code are the command's."""
    if os.name == "nt":  # where a program cannot take the place of another
        raise typer.Exit(_wait(command, environment))
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and what is ignored is inherited
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execvpe(command[0], command, environment)


def _wait(command: list[str], environment: dict[str, str]) -> int:
    """Run the command beside this process, and return its exit code; Ctrl-C reaches both, and is the command's."""
    program = shutil.which(command[0]) or command[0]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.run([program, *command[1:]], env=environment, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _tell_isolated(command: list[str]) -> None:
    """Warn of a Python that looks at no ``PYTHONPATH``, and so trains without the guard."""
    program = shutil.which(command[0])
    found = isolated(command) or isolated(_interpreter(Path(program)) if program else [])
    if found:
        typer.echo(
            f"gradsafe run: warning: {found} makes Python ignore PYTHONPATH, which 'gradsafe run' needs: "
            "THESE TRAININGS ARE NOT GUARDED. Leave that option out, or attach a guard in the code.",
            err=True,
        )


def isolated(command: Sequence[str]) -> str:
    """Return the interpreter and the option of a command that keeps ``sitecustomize`` or ``PYTHONPATH`` out, or ''."""
    words = iter(command)
    for word in words:
        if not _PYTHON.fullmatch(Path(word).name):
            continue
        for option in words:
            if not option.startswith("-") or option.startswith("--") or option[1:2] in ("", "c", "m"):
                break
            if _TAKES_VALUE.fullmatch(option):
                next(words, None)
            elif set(re.split("[WXcm]", option)[0]) & set("EIS"):
                return f"'{word} {option}'"
    return ""


def _interpreter(program: Path) -> list[str]:
    """Return the words after ``#!`` of a script, such as ``yolo``; none where there are none."""
    try:
        with program.open("rb") as file:
            line = file.readline(500)
    except OSError:
        return []
    return line[2:].decode(errors="replace").split() if line.startswith(b"#!") else []
