"""What ``gradsafe report`` does with a run that had no guard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from yolo_gradsafe.cli.app import WRONG

if TYPE_CHECKING:
    from yolo_gradsafe.report.postmortem import Postmortem

__all__ = ["post_mortem"]


def post_mortem(run: Path, page: bool, format: str | None) -> tuple[Postmortem, Path | None]:
    """Make the post-mortem of a run, write and print it.

    Args:
        run: The run's folder, its ``weights/``, or a file in either.
        page: Write ``postmortem.html`` as well.
        format: ``html``, ``json`` or ``md`` for this one only; None for the table and all files.

    Returns:
        The post-mortem, and the page if there is one.
    """
    if format == "png":
        typer.echo(
            "error: this run had no guard, so there are no steps to draw: see Ultralytics' results.png", err=True
        )
        raise typer.Exit(WRONG)
    from yolo_gradsafe.cli.progress import working
    from yolo_gradsafe.report.page.postmortem import write_postmortem
    from yolo_gradsafe.report.postmortem import CHECKPOINTS, examine, locate_stock, read_facts
    from yolo_gradsafe.report.postmortem.text import markdown, table

    folder = locate_stock(run)
    with working() as tell:
        tell("reading the checkpoints")
        from yolo_gradsafe.adapter.arguments import default_arguments
        from yolo_gradsafe.checkpoint import read_checkpoint

        present = [folder / name for name in CHECKPOINTS if (folder / name).is_file()]
        facts = read_facts(folder, [read_checkpoint(path, folder) for path in present])
        found = examine(facts, default_arguments())
        path = folder / "postmortem.html"
        if format == "html" or (format is None and page):
            tell("writing postmortem.html")
            write_postmortem(path, facts, found)
        if format is None:
            found.save(folder / "postmortem.json")
    if format == "html":
        typer.echo(path)
    elif format == "md":
        typer.echo(markdown(found), nl=False)
    else:
        typer.echo(found.to_json() if format == "json" else table(found))
    return found, path if path.is_file() else None
