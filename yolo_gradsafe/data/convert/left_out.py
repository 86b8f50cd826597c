"""The list of what a conversion left out, for a person and for a program."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.tally import clean

__all__ = ["list_left_out"]


def list_left_out(left: Iterable[Found], path: Path) -> None:
    """Write a row an entry: kind of finding, id of the annotation, image, why."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "annotation", "image", "message"])
        for one in left:
            annotation = "" if one.annotation is None else str(one.annotation)
            writer.writerow([one.kind, *map(clean, (annotation, one.image, one.message))])
