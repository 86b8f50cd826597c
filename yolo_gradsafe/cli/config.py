"""``gradsafe config``: print, check or export the options."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from yolo_gradsafe.cli.app import app, explained
from yolo_gradsafe.config import Config, parse_value, preset_lines, preset_names
from yolo_gradsafe.config_errors import ConfigError

config_app = typer.Typer(help="Print, check or export the options.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@config_app.command("show")
def config_show(
    source: Annotated[
        str | None,
        typer.Argument(help="A preset or a YAML file; default: the default options.", autocompletion=preset_names),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Options that override it, as SECTION.OPTION=VALUE.")
    ] = None,
) -> None:
    """Print resolved options as YAML, each with its description."""
    words = [word for word in [source, *(overrides or [])] if word]
    with explained(ConfigError):
        if words and "=" not in words[0]:
            source, *words = words
        else:
            source = None
        pairs = [word.removeprefix("--").removeprefix("gradsafe.").partition("=") for word in words]
        config = Config.load(source, {key: parse_value(value) for key, _, value in pairs})
        typer.echo(config.to_yaml(), nl=False)


@config_app.command("validate")
def config_validate(
    file: Annotated[str, typer.Argument(help="A YAML file or a preset's name.", autocompletion=preset_names)],
) -> None:
    """Check a configuration file, and name every wrong option."""
    with explained(ConfigError):
        Config.load(file)
    typer.echo(f"{file}: ok")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the options."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


@config_app.command("presets")
def config_presets() -> None:
    """List the presets: what each is for, and which defaults it changes."""
    typer.echo("\n".join(preset_lines()))
