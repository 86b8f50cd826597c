"""The truth table of the diagnosis: faults with a known truth are planted, and what GradSafe names is compared.

    python benchmarks/truth.py [--only WORDS] [--in-process] [--out runs/truth]

Minutes on two cores. Column by column it counts how often the cause, the images, the layer, the loss term, the line of
code and the precision are named right: where there is nothing to name, an empty answer is the right one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

from benchmarks.harness import machine, table
from benchmarks.planted.catalogue import FAULTS
from benchmarks.planted.scene import Benches, Fault, Truth
from yolo_gradsafe.forensics.diagnosis import Diagnosis

COLUMNS = ("cause", "images", "layer", "term", "line", "precision")


@dataclass(frozen=True)
class Row:
    """What was planted and what was named."""

    name: str
    truth: dict[str, str]
    """By column."""
    named: dict[str, str]
    """By column."""
    said: str
    """The diagnosis in words."""
    seconds: float

    @property
    def wrong(self) -> list[str]:
        """The columns that are named wrong."""
        return [column for column in COLUMNS if self.truth[column] != self.named[column]]

    @property
    def healthy(self) -> bool:
        """Whether there was nothing to find."""
        return self.name.startswith("healthy")


def look(fault: Fault, benches: Benches) -> Row:
    """Plant a fault in a fresh scene and let GradSafe look into it."""
    scene = benches.scene(fault.model)
    fault.plant(scene)
    start = time.perf_counter()
    found = scene.diagnosis(fault.precision, fault.amp_scale)
    took = time.perf_counter() - start
    said = "; ".join([found.sentence(), *found.notes])
    return Row(fault.name, _told(fault.truth), _named(found), said, took)


def _told(truth: Truth) -> dict[str, str]:
    cause = f"{truth.cause} ({truth.stage})" if truth.stage else str(truth.cause)
    images = ", ".join(map(str, truth.images))
    return dict(zip(COLUMNS, (cause, images, truth.layer, truth.term, truth.line, truth.precision), strict=True))


def _named(found: Diagnosis) -> dict[str, str]:
    cause = f"{found.cause} ({found.stage})" if found.stage else str(found.cause)
    images = ", ".join(map(str, found.indices))
    values = (cause, images, found.layer, found.term, found.source_text, found.precision)
    return dict(zip(COLUMNS, values, strict=True))


def summary(rows: Sequence[Row]) -> str:
    """Return the shares that are named right, by column, and what is named wrong."""
    planted, healthy = [row for row in rows if not row.healthy], [row for row in rows if row.healthy]
    lines = []
    for column in COLUMNS:
        right = sum(column not in row.wrong for row in planted)
        to_name = [row for row in planted if row.truth[column]]
        of_those = sum(column not in row.wrong for row in to_name)
        lines.append((column, right, len(planted), f"{right / max(1, len(planted)):.1%}", of_those, len(to_name)))
    head = ("column", "named right", "of faults", "share", "right where there is a name", "of")
    text = table(f"Named right, of {len(planted)} planted faults", head, lines)
    accused = [row.name for row in healthy if "cause" in row.wrong or "images" in row.wrong]
    text += f"\n{len(healthy)} healthy batches, {len(accused)} false accusations.\n"
    wrong = [(row.name, column, row.truth[column] or "-", row.named[column] or "-") for row in rows for column in row.wrong]
    return text + ("\n" + table("Named wrong", ("fault", "column", "truth", "named"), wrong) if wrong else "")


def full(rows: Sequence[Row]) -> str:
    """Return every fault with what was named."""
    cells = [(row.name, *(row.named[c] or "-" for c in COLUMNS), "all" if not row.wrong else "not " + ", ".join(row.wrong))
             for row in rows]  # fmt: skip
    return table("Every fault", ("fault", *COLUMNS, "right"), cells)


def report(arguments: Sequence[str] | None = None) -> str:
    """Plant what is asked for and return the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="faults whose names hold one of these words; * for any text")
    parser.add_argument("--verbose", action="store_true", help="print what is said of each fault")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        benches = Benches(Path(folder))
        for fault in FAULTS:
            if not options.only or any(fnmatch(fault.name, f"*{word}*") for word in options.only):
                row = look(fault, benches)
                rows.append(row)
                mark = "WRONG " + ", ".join(row.wrong) if row.wrong else "right"
                print(f"{row.seconds:5.1f} s  {row.name}: {mark}", flush=True)
                if row.wrong or options.verbose:
                    for column in row.wrong:
                        print(f"         {column}: {row.truth[column]!r}, named {row.named[column]!r}")
                    print(f"         {row.said}")
    return f"{machine('cpu')}\n\n{full(rows)}\n{summary(rows)}"


if __name__ == "__main__":
    print("\n" + report())
