"""``gradsafe demo``: a fault in a real training, survived."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo_gradsafe.cli.app import FAILED, app


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for the data set and the runs.")] = Path("runs/gradsafe-demo"),
) -> None:
    """Draw a small data set, train detection and pose on it with a NaN batch injected, and show the reports."""
    from yolo_gradsafe.drill.demo import run_demo

    if not run_demo(folder):
        raise typer.Exit(FAILED)
