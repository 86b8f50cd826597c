"""``gradsafe watch``: a running training on the terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from yolo_gradsafe.cli.app import app, explained

SHARE = 10
"""Times as long as reading took is waited at least, so that watching a long run costs the machine little."""


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="The run's folder, e.g. runs/detect/train.")],
    every: Annotated[float, typer.Option(help="Seconds between two updates.", min=0.2)] = 2.0,
    once: Annotated[
        bool,
        typer.Option("--once", help="Show the current state once and exit (also when the output is not a terminal)."),
    ] = False,
) -> None:
    """Follow a running training: curves, counts and the last incidents. Ctrl-C ends the display, not the training."""
    from rich.console import Console
    from rich.live import Live

    from yolo_gradsafe.report.live import look
    from yolo_gradsafe.report.parts import ReportError
    from yolo_gradsafe.report.records import locate

    console = Console()
    with explained(ReportError, OSError):
        paths = locate(run)
        view = look(paths)
        if once or not console.is_terminal:
            console.print(view)
            return
        try:
            with Live(view, console=console, refresh_per_second=2) as live:
                while not view.over:
                    start = time.monotonic()
                    view = look(paths)
                    live.update(view)
                    time.sleep(max(every, SHARE * (time.monotonic() - start)))
        except KeyboardInterrupt:
            return
