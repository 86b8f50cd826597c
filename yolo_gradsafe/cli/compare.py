"""``gradsafe compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolo_gradsafe.cli.app import WRONG, app, explained

if TYPE_CHECKING:
    from rich.table import Table

    from yolo_gradsafe.report.compare import Comparison


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of the runs, two or more.")],
    html: Annotated[
        bool, typer.Option("--html", help="Write a page that shows the curves of all runs in the same axes.")
    ] = False,
    out: Annotated[Path, typer.Option(help="File to write the page to.")] = Path("compare.html"),
    open: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Compare runs side by side: outcome, gradients, cost, and the settings that differ."""
    if len(runs) < 2:
        typer.echo("error: give two runs or more, e.g. gradsafe compare runs/detect/train runs/detect/train2", err=True)
        raise typer.Exit(WRONG)
    from rich.console import Console

    from yolo_gradsafe.cli.progress import working
    from yolo_gradsafe.report.compare import compare as lay_side_by_side
    from yolo_gradsafe.report.compare import gather
    from yolo_gradsafe.report.parts import ReportError

    with explained(ReportError, OSError):
        with working(len(runs) + (html or open)) as tell:
            members = gather(runs, tell)
            comparison = lay_side_by_side(members)
            if html or open:
                from yolo_gradsafe.report.page.comparison import write_comparison

                tell(f"writing {out.name}")
                write_comparison(out, members, comparison)
        Console().print(_table(comparison))
    if html or open:
        typer.echo(out)
    if open:
        typer.launch(out.absolute().as_uri())


def _table(comparison: Comparison) -> Table:
    """Return the comparison for a terminal; names and values are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from yolo_gradsafe.report.console import shown

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in comparison.names:
        table.add_column(Text(shown(name)), overflow="fold")
    for number, (title, rows) in enumerate(comparison.sections.items()):
        if number:
            table.add_section()
        table.add_row(Text(title, style="bold"))
        for row in rows:
            table.add_row(Text(f"  {shown(row.name)}"), *(Text(shown(value)) for value in row.values))
    return table
