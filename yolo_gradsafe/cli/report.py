"""``gradsafe report``: a run's report, from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo_gradsafe.cli.app import app, explained


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The run's folder, e.g. runs/detect/train.")],
    plot: Annotated[bool, typer.Option(help="Draw stability.png as well.")] = True,
) -> None:
    """Rebuild the report of a finished, crashed or running training from its records, and print it."""
    from yolo_gradsafe.report import build
    from yolo_gradsafe.report.console import table
    from yolo_gradsafe.report.summary import ReportError

    with explained(ReportError):
        typer.echo(table(build(run, plot=plot)))
