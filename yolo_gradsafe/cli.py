"""The ``gradsafe`` command.

Exit codes: 0 done, 1 the training failed, 2 wrong options or arguments. What is heavy is imported by the command that
needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from yolo_gradsafe import __version__
from yolo_gradsafe.config import Config, ConfigError, parse_value, preset_names

__all__ = ["app", "main"]

FAILED, WRONG = 1, 2

app = typer.Typer(
    name="gradsafe",
    help="Gradient safety for Ultralytics YOLO training: track, clip, recover from NaN, report.",
    epilog="Exit codes: 0 done, 1 the training failed, 2 wrong options or arguments.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Print, check or export the options.", no_args_is_help=True)
app.add_typer(config_app, name="config")


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _explained(*errors: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake into a message and exit code 2."""
    try:
        yield
    except errors as error:
        typer.echo(f"error: {error}".strip(), err=True)
        raise typer.Exit(WRONG) from None


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Train as 'yolo train' does, guarded.\n\n"
    "Takes every Ultralytics argument as key=value, and the options of the guard: gradsafe=PRESET_OR_FILE and "
    "gradsafe.SECTION.OPTION=VALUE.\n\n"
    "Example: gradsafe train model=yolo26n.pt data=coco8.yaml epochs=100 gradsafe=detect gradsafe.clip.max_norm=5",
)
def train(context: typer.Context) -> None:
    """Train as ``yolo train`` does, guarded."""
    ours, theirs = _split(context.args)
    with _explained(ConfigError):
        Config.load(ours.get("source"), ours["overrides"])

    from yolo_gradsafe import port
    from yolo_gradsafe.guard import GradSafe
    from yolo_gradsafe.models import RTDETR, YOLO

    with _explained(SyntaxError, TypeError, ValueError):
        arguments = port.parse_arguments(theirs)
        if "model" not in arguments:
            raise SyntaxError("'model' is missing, e.g. model=yolo26n.pt")
    guard = GradSafe(ours.get("source"), **ours["overrides"])
    name = str(arguments.pop("model"))
    task = arguments.pop("task", None)
    model = RTDETR(name) if "rtdetr" in Path(name).stem.lower() else YOLO(name, task=task)
    try:
        model.train(callbacks=guard, **arguments)
    except Exception as error:
        port.warn(f"the training failed: {type(error).__name__}: {error}")
        raise typer.Exit(FAILED) from error


def _split(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Part the guard's words from Ultralytics'."""
    ours: dict[str, Any] = {"overrides": {}}
    theirs = []
    with _explained(ConfigError):
        for word in words:
            key, equals, value = word.removeprefix("--").partition("=")
            if key == "gradsafe" and equals:
                ours["source"] = value
            elif key.startswith("gradsafe.") and equals:
                ours["overrides"][key.removeprefix("gradsafe.")] = parse_value(value)
            elif key.split(".")[0] == "gradsafe":
                raise ConfigError(f"'{word}': expected gradsafe=PRESET_OR_FILE or gradsafe.SECTION.OPTION=VALUE")
            else:
                theirs.append(word)
    return ours, theirs


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Find out by experiment which clip value and which lr0 a training wants, and whether AMP is safe for it.\n\n"
    "Takes Ultralytics' training arguments as key=value, and seed=N, range_steps=N, norm_steps=N. Leaves the model's "
    "file as it is; writes probe.json and probe.png.\n\n"
    "Example: gradsafe probe model=yolo26n.yaml data=coco8.yaml imgsz=160 batch=8",
)
def probe(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; a new runs/probe without it.")] = None,
) -> None:
    """Find out by experiment which clip value and learning rate a training wants."""
    from yolo_gradsafe import port
    from yolo_gradsafe.probe import run_probe
    from yolo_gradsafe.probe.console import table
    from yolo_gradsafe.probe.run import OWN_WORDS

    with _explained(SyntaxError, TypeError, ValueError, FileNotFoundError, ConfigError):
        own = {key: parse_value(value) for key, value in _pairs(context.args) if key in (*OWN_WORDS, "seed")}
        theirs = [word for word in context.args if word.partition("=")[0] not in own]
        result = run_probe({**port.parse_arguments(theirs), **own}, out)
    typer.echo(table(result))
    typer.echo("\n" + result.to_yaml(), nl=False)


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            yield key, value


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the data set and the runs go.")] = Path("runs/gradsafe-demo"),
) -> None:
    """Draw a small data set, train detection and pose on it with a NaN batch injected, and show the reports."""
    from yolo_gradsafe.drill.demo import run_demo

    if not run_demo(folder):
        raise typer.Exit(FAILED)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The run's folder, e.g. runs/detect/train.")],
    plot: Annotated[bool, typer.Option(help="Draw stability.png as well.")] = True,
) -> None:
    """Rebuild the report of a finished, crashed or running training from its records, and print it."""
    from yolo_gradsafe.report import build
    from yolo_gradsafe.report.console import table
    from yolo_gradsafe.report.summary import ReportError

    with _explained(ReportError):
        typer.echo(table(build(run, plot=plot)))


@config_app.command("show")
def config_show(
    source: Annotated[str | None, typer.Argument(help="A preset or a YAML file; the defaults without one.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Options over it, as SECTION.OPTION=VALUE.")] = None,
) -> None:
    """Print resolved options as YAML, each with its description."""
    words = [word for word in [source, *(overrides or [])] if word]
    with _explained(ConfigError):
        if words and "=" not in words[0]:
            source, *words = words
        else:
            source = None
        pairs = [word.partition("=") for word in words]
        config = Config.load(source, {key: parse_value(value) for key, _, value in pairs})
        typer.echo(config.to_yaml(), nl=False)


@config_app.command("validate")
def config_validate(file: Annotated[str, typer.Argument(help="A YAML file or a preset's name.")]) -> None:
    """Check a configuration; says what is wrong with it by the option's name."""
    with _explained(ConfigError):
        Config.load(file)
    typer.echo(f"{file}: ok")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the options."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@config_app.command("presets")
def config_presets() -> None:
    """List the presets."""
    typer.echo("\n".join(preset_names()))
