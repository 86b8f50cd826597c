"""``gradsafe demo``: a fault in a real training, survived."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo_gradsafe.cli.app import FAILED, KEY_VALUE, app, explained

_OWN = ("data", "model", "name", "project", "task")
"""Arguments that the demo sets itself."""


@app.command(context_settings=KEY_VALUE)
def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Training arguments to try, e.g. optimizer=AdamW lr0=0.1.", show_default=False
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Folder for the data set and the runs.")] = Path("runs/gradsafe-demo"),
) -> None:
    """Draw a small data set, train detection and pose on it with a NaN batch injected, and show the reports."""
    from yolo_gradsafe import adapter
    from yolo_gradsafe.drill.demo import run_demo

    with explained(SyntaxError, TypeError, ValueError, FileNotFoundError):
        changes = adapter.parse_arguments(words or [])
        if own := [name for name in _OWN if name in changes]:
            raise ValueError(f"{own[0]}={changes[own[0]]}: the demo sets this itself; change others, such as lr0=0.1")
    if not run_demo(folder, **changes):
        raise typer.Exit(FAILED)
