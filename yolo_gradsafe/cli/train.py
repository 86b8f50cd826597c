"""``gradsafe train``: train as ``yolo train`` does, guarded."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from yolo_gradsafe.cli.app import FAILED, INTERRUPTED, KEY_VALUE, WRONG, app, explained
from yolo_gradsafe.config import Config, option_names, parse_value
from yolo_gradsafe.config_errors import ConfigError

_OURS = {*Config.model_fields, "max_norm", "preset"}
"""First parts of the guard's options, none of which is an argument of Ultralytics."""


def _option_words(incomplete: str) -> list[str]:
    """Complete options of the guard."""
    words = ["gradsafe=", *(f"gradsafe.{name}=" for name in option_names())]
    return [word for word in words if word.startswith(incomplete)]


@app.command(
    context_settings=KEY_VALUE,
    help="Train like 'yolo train', with the guard.\n\nTakes what 'yolo train' takes: every Ultralytics argument as "
    "key=value, cfg=FILE, a task's name. data= may be a COCO JSON, a YAML that names one per split, or the folder of "
    "an export: it is converted once.\n\nOptions of the guard: gradsafe=PRESET_OR_FILE and "
    "gradsafe.SECTION.OPTION=VALUE, such as gradsafe.clip.max_norm=5, gradsafe.clip.mode=agc, "
    "gradsafe.recovery.enabled=false, gradsafe.forensics.archive=true, gradsafe.loggers.steps=true. Presets: gradsafe "
    "config presets. All options, explained: gradsafe config show.\n\nExample: gradsafe train model=yolo26n.pt "
    "data=coco8.yaml epochs=100 gradsafe=detect gradsafe.clip.max_norm=5",
)
def train(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", autocompletion=_option_words, show_default=False)
    ] = None,
) -> None:
    """Train as ``yolo train`` does, guarded."""
    ours, theirs = _split(words or [])
    with explained(ConfigError):
        Config.load(ours.get("source"), ours["overrides"])

    from yolo_gradsafe import adapter
    from yolo_gradsafe.guard import GradSafe
    from yolo_gradsafe.models import RTDETR, YOLO

    with explained(SyntaxError, TypeError, ValueError, FileNotFoundError):
        arguments = adapter.parse_arguments(theirs)
        if "model" not in arguments:
            raise SyntaxError("'model' is missing, e.g. model=yolo26n.pt")
    guard = GradSafe(ours.get("source"), **ours["overrides"])
    name = str(arguments.pop("model"))
    task = arguments.pop("task", None)
    try:
        model = RTDETR(name) if "rtdetr" in Path(name).stem.lower() else YOLO(name, task=task)
    except Exception as error:  # Ultralytics looks for a missing file in the net, and unpickles what it finds
        said = str(error) or type(error).__name__
        typer.echo(f"error: model={name} cannot be loaded: {said.splitlines()[0]}", err=True)
        raise typer.Exit(WRONG) from None
    arguments |= _prepared(arguments, str(model.task))
    try:
        model.train(callbacks=guard, **arguments)
    except KeyboardInterrupt:
        typer.echo(f"interrupted. {_to_resume(model)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        adapter.warn(f"the training failed: {type(error).__name__}: {error}")
        raise typer.Exit(FAILED) from error


def _to_resume(model: Any) -> str:
    """Say how to go on with a training that was interrupted."""
    last = getattr(model.trainer, "last", None)
    if last is None or not Path(last).is_file():
        return "No epoch was finished, so there is nothing to resume. Start the training again."
    return f"To resume: gradsafe train model={shlex.quote(str(last))} resume=True"


def _prepared(arguments: dict[str, Any], task: str) -> dict[str, Any]:
    """Return the data YAML in place of COCO JSON or a folder; nothing where Ultralytics takes the data as they are."""
    from yolo_gradsafe import adapter
    from yolo_gradsafe.data.convert import PrepareError, for_training
    from yolo_gradsafe.data.findings import CheckError

    with explained(PrepareError, CheckError, OSError):
        prepared = for_training(arguments.get("data"), task)
    if prepared is None:
        return {}
    first, *others = prepared.notes
    adapter.log(
        f"{first} (earlier; the data have not changed)"
        if first.startswith("converted") and not prepared.fresh
        else first
    )
    for note in others:
        adapter.warn(note)
    return {"data": str(prepared.data)}


def _split(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Part the guard's words from Ultralytics'."""
    ours: dict[str, Any] = {"overrides": {}}
    theirs = []
    with explained(ConfigError):
        for word in words:
            key, equals, value = word.removeprefix("--").partition("=")
            if key == "gradsafe" and equals:
                ours["source"] = value
            elif key.startswith("gradsafe.") and equals:
                ours["overrides"][key.removeprefix("gradsafe.")] = parse_value(value)
            elif key.split(".")[0] == "gradsafe":
                raise ConfigError(f"'{word}': expected gradsafe=PRESET_OR_FILE or gradsafe.SECTION.OPTION=VALUE")
            elif key.split(".")[0] in _OURS:
                name = "gradsafe" if key == "preset" else f"gradsafe.{key}"
                raise ConfigError(f"'{word}' is an option of the guard: write {name}{equals}{value}")
            else:
                theirs.append(word)
    return ours, theirs
