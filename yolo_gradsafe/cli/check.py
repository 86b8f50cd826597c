"""``gradsafe check``: the state of a data set before training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from yolo_gradsafe.cli.app import FAILED, app, explained

SHEET, RESULT = "health.jpg", "health.json"


@app.command(
    help="Find problems in a data set that make the loss NaN, the gradients explode or the training fail.\n\nDATA is a "
    "YOLO data YAML, a COCO JSON (instances or keypoints), a YAML that names COCO JSONs, or a folder. Prints a table "
    "of what was found, with file and line or annotation id.\n\nExit codes: 0 nothing serious, 1 errors found, 2 wrong "
    "arguments.\n\nExample: gradsafe check coco8.yaml --imgsz 640 --batch 16 --out checked",
)
def check(
    data: Annotated[str, typer.Argument(help="Data YAML, COCO JSON or folder.")],
    imgsz: Annotated[
        int, typer.Option(min=1, help="Image size of the training in pixels; boxes are checked at this size.")
    ] = 640,
    batch: Annotated[int, typer.Option(min=1, help="Batch size, to check the last batch of an epoch.")] = 16,
    images: Annotated[Path | None, typer.Option(help="Folder with the images of a COCO JSON.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Task to check the labels for: detect, pose, segment or obb.")
    ] = None,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Do not read the images.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for {RESULT} and {SHEET}, a contact sheet of the worst images.")
    ] = None,
) -> None:
    """Check a data set before training."""
    from yolo_gradsafe.data.findings import CheckError
    from yolo_gradsafe.data.health import run_check
    from yolo_gradsafe.data.health_table import table

    with explained(CheckError, OSError), _progress() as progress:
        health = run_check(
            data,
            imgsz=imgsz,
            batch=batch,
            images=images,
            read_images=not labels_only,
            sheet=out / SHEET if out else None,
            task=task,
            progress=progress,
        )
        if out:
            out.mkdir(parents=True, exist_ok=True)
            health.save(out / RESULT)
    typer.echo(health.to_json() if as_json else table(health))
    if health.errors:
        raise typer.Exit(FAILED)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Yield what draws a progress bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    # A terminal of its own: the check catches what decoders write to the other.
    with open(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal:
        yield from _bar(terminal)


def _bar(terminal: TextIO) -> Iterator[Callable[[int, int], None]]:
    with typer.progressbar(length=1, label="check", file=terminal) as bar:

        def move(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield move
