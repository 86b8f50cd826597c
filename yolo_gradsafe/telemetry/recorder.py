"""The recorder: appends steps and incidents to files as the run goes, so that a crash loses little.

No file stays open between writes: the recorder pickles, and a killed run leaves whole lines behind.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from yolo_gradsafe.telemetry.files import Files, csv_lines, cut_after, cut_half_line, read_states, write_atomically
from yolo_gradsafe.telemetry.schema import Incident, LayerRow, RunInfo, RunPaths, StepRow, to_json

__all__ = ["Recorder", "write_atomically"]

_logger = logging.getLogger(__name__)


class Recorder:
    """Writes ``stability/`` of one run. A file that cannot be written is told of once, and is no error.

    Args:
        run: The run's folder (Ultralytics' ``save_dir``).
        flush_steps: Rows of ``steps.csv`` held back at most.
        flush_seconds: Seconds that rows are held back at most.
        tell: Called with the first failure, in one sentence.
    """

    def __init__(
        self,
        run: Path,
        flush_steps: int = 100,
        flush_seconds: float = 5.0,
        tell: Callable[[str], None] = _logger.warning,
    ) -> None:
        self.paths = RunPaths(Path(run))
        self.flush_steps = flush_steps
        self.flush_seconds = flush_seconds
        self.files = Files(tell)
        self.steps = 0
        """Optimizer steps recorded, those of the run that was resumed included."""
        self._rows: list[StepRow] = []
        self._header: list[str] = []
        self._states: dict[int, dict[str, Any]] = {}
        self._flushed = time.monotonic()

    def start(self, resume: bool = False, done: int | None = None) -> Recorder:
        """Make the folder ready; to be called before anything is recorded.

        Args:
            resume: Append to what is there; otherwise records of an earlier run in the same folder are removed.
            done: Epochs that the checkpoint of a resumed run has behind it. Records of later ones, which were cut short
                or not saved, are removed: these epochs are trained once more. None keeps all.

        Returns:
            The recorder.
        """
        begin = (lambda: self._resume(done)) if resume else self._clear
        self.files.attempt(self.paths.folder, lambda: self.paths.folder.mkdir(parents=True, exist_ok=True))
        self.files.attempt(self.paths.folder, begin)
        return self

    def _clear(self) -> None:
        """Remove the records of an earlier run."""
        paths = self.paths
        records = (paths.steps, paths.layers, paths.incidents, paths.state, paths.health, paths.quarantine)
        halves = (*paths.folder.glob("*.part"), *paths.run.glob("stability.*.part"))
        for path in (*records, *paths.reports, *halves):
            path.unlink(missing_ok=True)

    def _resume(self, done: int | None) -> None:
        """Go on where the checkpoint stands."""
        for path in (self.paths.steps, self.paths.layers, self.paths.incidents):
            cut_half_line(path)
            if done is not None:
                cut_after(path, done)
        self._header, self.steps = _read_back(self.paths.steps)
        with contextlib.suppress(ValueError):  # whoever goes on from it says so
            states = read_states(self.paths.state)
            self._states = {epoch: state for epoch, state in states.items() if done is None or epoch <= done}

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
        self.files.append(self.paths.incidents, json.dumps(to_json(values), allow_nan=False) + "\n")
        self.flush()

    def info(self, info: RunInfo) -> None:
        """Write ``run.json``."""
        self.files.replace(self.paths.info, json.dumps(to_json(asdict(info)), indent=2, allow_nan=False) + "\n")

    def options(self, text: str) -> None:
        """Write the resolved options."""
        self.files.replace(self.paths.options, text)

    def state(self, epoch: int, values: dict[str, Any]) -> None:
        """Write what a run that is resumed after this epoch goes on from; finite numbers, lists and names.

        The epoch before is kept as well: its checkpoint is the newest one until this epoch's is written.
        """
        kept = {before: state for before, state in self._states.items() if before < epoch}
        self._states = {**dict(sorted(kept.items())[-1:]), epoch: values}
        self.files.replace(self.paths.state, json.dumps({"epochs": self._states}, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Append the rows that are held back to ``steps.csv``, as one write."""
        self._flushed = time.monotonic()
        rows, self._rows = self._rows, []
        if rows:
            self._header = self._header or rows[0].columns()
        lines = ([_cell(value) for value in self._values(row)] for row in rows)
        self.files.append(self.paths.steps, csv_lines(lines), csv_lines([self._header]))

    def layers(self, rows: Sequence[LayerRow]) -> None:
        """Append an epoch's layers to ``layers.csv``."""
        lines = ([_cell(value) for value in vars(row).values()] for row in rows)
        self.files.append(self.paths.layers, csv_lines(lines), csv_lines([[f.name for f in fields(LayerRow)]]))

    def _values(self, row: StepRow) -> Iterator[object]:
        values = {**vars(row), **row.items, **row.stages, "images": json.dumps(row.images) if row.images else ""}
        return (values.get(name, "") for name in self._header)


def _cell(value: object) -> object:
    return f"{value:.7g}" if isinstance(value, float) else value


def _read_back(path: Path) -> tuple[list[str], int]:
    """Return the header of a ``steps.csv`` and the number of its last step; nothing and 0 where there is none."""
    if not path.is_file():
        return [], 0
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        last = max((int(row["step"]) for row in reader if (row.get("step") or "").isdigit()), default=0)
        return list(reader.fieldnames or ()), last
