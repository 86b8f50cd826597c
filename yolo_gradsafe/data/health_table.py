"""A check's result on a terminal: a table by kind, the worst first, with examples."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

from yolo_gradsafe.data.findings import Finding, Health, KindCount
from yolo_gradsafe.report.console import shown

__all__ = ["table"]

WIDTH = 100
EXAMPLES = 3
"""Examples of a kind that are shown."""


def table(health: Health) -> str:
    """Return the result as plain text, without a line break at its end."""
    lines = [*textwrap.wrap(shown(health.headline), WIDTH), *_set(health)]
    if health.kinds:
        columns = max(len(kind.kind) for kind in health.kinds)
        lines += ["", f"  {'severity':<9}{'kind':<{columns}}  {'count':>7}  {'images':>7}"]
        for kind in health.kinds:
            lines += _kind(kind, columns)
    return "\n".join(lines)


def _set(health: Health) -> Iterator[str]:
    classes = "classes unknown" if health.classes is None else f"{health.classes} class{'es' * (health.classes != 1)}"
    points = f", {health.keypoints[0]} keypoints of {health.keypoints[1]} numbers" if health.keypoints else ""
    judged = f"judged at {health.imgsz} px, batch {health.batch}"
    yield f"  {shown(health.data)} ({health.format}): {classes}{points}; {judged}"
    for name, split in health.splits.items():
        empty = split.images - split.labelled
        yield f"  {shown(name)}: {split.images} images, {split.objects} objects, {empty} images without"
    if health.annotations:
        yield from _wrapped(f"for {health.annotations.task}: {health.annotations.sum}", 2)
    yield f"  {health.images_read} images read in {health.seconds:.1f} s"


def _kind(kind: KindCount, columns: int) -> Iterator[str]:
    yield f"  {kind.severity:<9}{kind.kind:<{columns}}  {kind.count:>7}  {kind.images or '-':>7}"
    yield from _wrapped(kind.meaning, 4)
    yield from _wrapped(f"-> {kind.remedy}", 4)
    for example in kind.examples[:EXAMPLES]:
        yield from _wrapped(_told(example), 6)
    if kind.count > EXAMPLES:
        yield f"      ... {kind.count - EXAMPLES} more"


def _told(finding: Finding) -> str:
    near = finding.model_copy(update={"file": _near(finding.file)})
    image = f" ({_near(finding.image)})" if finding.annotation is not None and finding.image else ""
    return f"{near.place}{image}: {finding.message}"


def _near(path: str) -> str:
    """Return a path as it is written from here, if it is below."""
    return path.removeprefix(f"{Path.cwd()}{os.sep}")


def _wrapped(text: str, indent: int) -> list[str]:
    pad = " " * indent
    return textwrap.wrap(
        shown(text),
        WIDTH,
        initial_indent=pad,
        subsequent_indent=pad + "  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
