"""The recorder: appends steps and incidents to files as the run goes, so that a crash loses little.

No file stays open between writes: the recorder pickles, and a killed run leaves whole lines behind.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from yolo_gradsafe.telemetry.schema import Incident, LayerRow, RunInfo, RunPaths, StepRow, to_json

__all__ = ["Recorder", "write_atomically"]


class Recorder:
    """Writes ``stability/`` of one run.

    Args:
        run: The run's folder (Ultralytics' ``save_dir``).
        flush_steps: Rows of ``steps.csv`` held back at most.
        flush_seconds: Seconds that rows are held back at most.
        resume: Append to what is there; otherwise records of an earlier run in the same folder are removed.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, run: Path, flush_steps: int = 100, flush_seconds: float = 5.0, resume: bool = False) -> None:
        self.paths = RunPaths(Path(run))
        self.flush_steps = flush_steps
        self.flush_seconds = flush_seconds
        self.steps = 0
        """Optimizer steps recorded, those of the run that was resumed included."""
        self._rows: list[StepRow] = []
        self._header: list[str] = []
        self._flushed = time.monotonic()
        self.paths.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            _cut_half_line(self.paths.steps)
            _cut_half_line(self.paths.layers)
            _cut_half_line(self.paths.incidents)
            self._header, self.steps = _read_back(self.paths.steps)
        else:
            paths = self.paths
            records = (paths.steps, paths.layers, paths.incidents, paths.state, paths.health)
            for path in (*records, paths.quarantine, *paths.reports):
                path.unlink(missing_ok=True)

    def step(self, row: StepRow) -> None:
        """Record an optimizer step; written now only if enough rows or seconds have gathered."""
        self.steps = row.step
        self._rows.append(row)
        if len(self._rows) >= self.flush_steps or time.monotonic() - self._flushed >= self.flush_seconds:
            self.flush()

    def incident(self, incident: Incident) -> None:
        """Record an incident, at once, with the rows that led to it."""
        values = {
            **asdict(incident),
            "time": incident.time or datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with self.paths.incidents.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_json(values), allow_nan=False) + "\n")
        self.flush()

    def info(self, info: RunInfo) -> None:
        """Write ``run.json``."""
        write_atomically(self.paths.info, json.dumps(to_json(asdict(info)), indent=2, allow_nan=False) + "\n")

    def options(self, text: str) -> None:
        """Write the resolved options."""
        write_atomically(self.paths.options, text)

    def state(self, values: dict[str, Any]) -> None:
        """Write what a resumed run goes on from; finite numbers, lists and names."""
        write_atomically(self.paths.state, json.dumps(values, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Append the rows that are held back to ``steps.csv``, as one write."""
        self._flushed = time.monotonic()
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        header = [] if self._header else rows[0].columns()
        self._header = self._header or header
        lines = [[_cell(value) for value in self._values(row)] for row in rows]
        _append(self.paths.steps, [header, *lines] if header else lines)

    def layers(self, rows: Sequence[LayerRow]) -> None:
        """Append an epoch's layers to ``layers.csv``."""
        header = [] if self.paths.layers.exists() else [[f.name for f in fields(LayerRow)]]
        _append(self.paths.layers, [*header, *([_cell(value) for value in vars(row).values()] for row in rows)])

    def _values(self, row: StepRow) -> Iterator[object]:
        values = {**vars(row), **row.items, **row.stages, "images": json.dumps(row.images) if row.images else ""}
        return (values.get(name, "") for name in self._header)


def _append(path: Path, lines: Iterable[Iterable[object]]) -> None:
    """Append lines to a CSV file as one write."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _cell(value: object) -> object:
    return f"{value:.7g}" if isinstance(value, float) else value


def _cut_half_line(path: Path) -> None:
    """Remove what a crash left of a line, so that the next one starts on its own."""
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            path.write_bytes(data[: data.rfind(b"\n") + 1])


def _read_back(path: Path) -> tuple[list[str], int]:
    """Return the header of a ``steps.csv`` and the number of its last step; nothing and 0 where there is none."""
    if not path.is_file():
        return [], 0
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        last = max((int(row["step"]) for row in reader), default=0)
        return list(reader.fieldnames or ()), last
