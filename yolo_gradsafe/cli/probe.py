"""``gradsafe probe``: the experiment before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo_gradsafe.cli.app import KEY_VALUE, app, explained, pairs
from yolo_gradsafe.config import parse_value
from yolo_gradsafe.config_errors import ConfigError


@app.command(
    context_settings=KEY_VALUE,
    help="Find out by experiment which clip value and which lr0 a training wants, and whether AMP is safe for it.\n\n"
    "It trains your model on your data for a short time, with your settings and with what it would suggest. It "
    "recommends only what was better by more than chance, and says to keep your settings otherwise. Takes about two "
    "minutes at most, or --budget seconds.\n\n"
    "Takes Ultralytics' training arguments as key=value: give it those that you will train with. Also seed=N, "
    "range_steps=N, trial_steps=N. Leaves the model's file as it is; writes probe.json and probe.png.\n\n"
    "Example: gradsafe probe model=yolo26n.yaml data=coco8.yaml imgsz=160 batch=8",
)
def probe(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; a new runs/probe without it.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds for all of it; more make the short trainings longer.")] = 120,
) -> None:
    """Find out by experiment which clip value and learning rate a training wants."""
    from yolo_gradsafe import adapter
    from yolo_gradsafe.probe import run_probe
    from yolo_gradsafe.probe.experiment import OWN_WORDS
    from yolo_gradsafe.probe.result_table import table

    with explained(SyntaxError, TypeError, ValueError, KeyError, FileNotFoundError, ConfigError):
        own = {key: parse_value(value) for key, value in pairs(context.args) if key in (*OWN_WORDS, "seed")}
        theirs = [word for word in context.args if word.partition("=")[0] not in own]
        result = run_probe({**adapter.parse_arguments(theirs), **own}, out, budget)
    typer.echo(table(result))
    typer.echo("\n" + result.to_yaml(), nl=False)
