"""The truth table of the diagnosis: faults with a known truth are planted, and what GradSafe names is compared.

    python benchmarks/truth.py [--only WORDS ...] [--out ROWS.json] [--verbose]

Minutes on two cores. Column by column it counts how often the cause, the images, the layer, the loss term, the line of
code and the precision are named right: where there is nothing to name, an empty answer is the right one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

from benchmarks.harness import machine, table
from benchmarks.planted.catalogue import FAULTS
from benchmarks.planted.scene import Benches, Fault, Truth
from benchmarks.planted.trainings import TRAININGS, Training, first_incident
from yolo_gradsafe.forensics.diagnosis import Diagnosis

BATCH = 4
"""Images of a batch in the trainings."""
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


def train(training: Training, folder: Path) -> Row:
    """Run a guarded training with a fault, and read its first incident."""
    start = time.perf_counter()
    found = first_incident(training, folder)
    took = time.perf_counter() - start
    cause = f"{found.get('cause', '')} ({found['stage']})" if found.get("stage") else found.get("cause", "")
    # A batch that is not taken apart is listed whole: then no image is named.
    images = [Path(image).name for image in found.get("images", ())]
    named = ", ".join(images) if len(images) < BATCH else ""
    keys = ("layer", "term", "source_text", "failed_in")
    values = (cause, named, *(found.get(key, "") for key in keys))
    truth = {**_told(training.truth), "images": ", ".join(training.images)}
    return Row(training.name, truth, dict(zip(COLUMNS, values, strict=True)), found.get("message", "no incident"), took)


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
    wrong = [
        (row.name, column, row.truth[column] or "-", row.named[column] or "-") for row in rows for column in row.wrong
    ]
    return text + ("\n" + table("Named wrong", ("fault", "column", "truth", "named"), wrong) if wrong else "")


def full(rows: Sequence[Row]) -> str:
    """Return every fault with what was named."""
    cells = []
    for row in rows:
        right = f"not {', '.join(row.wrong)}" if row.wrong else "all"
        cells.append((row.name, *(row.named[column] or "-" for column in COLUMNS), right))
    return table("Every fault", ("fault", *COLUMNS, "right"), cells)


def _matches(name: str, words: Sequence[str]) -> bool:
    return any(fnmatch(name, f"*{word}*") for word in words)


def _show(row: Row, verbose: bool) -> None:
    """Print a line on a fault, and what was said of it where that is wrong."""
    print(f"{row.seconds:5.1f} s  {row.name}: {'WRONG ' + ', '.join(row.wrong) if row.wrong else 'right'}", flush=True)
    for column in row.wrong:
        print(f"         {column}: {row.truth[column]!r}, named {row.named[column]!r}", flush=True)
    if row.wrong or verbose:
        print(f"         {row.said}", flush=True)


def report(arguments: Sequence[str] | None = None) -> str:
    """Plant what is asked for and return the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="*", default=[], help="faults whose names hold one of these words; * for any text"
    )
    parser.add_argument("--out", type=Path, help="JSON file to keep the rows in; those of other faults there stay")
    parser.add_argument("--verbose", action="store_true", help="print what is said of each fault")
    options = parser.parse_args(arguments)
    kept = json.loads(options.out.read_text()) if options.out and options.out.is_file() else []
    rows = {row["name"]: Row(**row) for row in kept}
    with tempfile.TemporaryDirectory() as folder:
        benches = Benches(Path(folder))
        asked = [f for f in (*FAULTS, *TRAININGS) if not options.only or _matches(f.name, options.only)]
        for number, fault in enumerate(asked):
            row = look(fault, benches) if isinstance(fault, Fault) else train(fault, Path(folder) / f"{number}")
            rows[row.name] = row
            _show(row, options.verbose)
            if options.out:
                options.out.write_text(json.dumps([asdict(row) for row in rows.values()], indent=1))
    told = list(rows.values())
    return f"{machine('cpu')}\n\n{full(told)}\n{summary(told)}"


if __name__ == "__main__":
    print("\n" + report())
