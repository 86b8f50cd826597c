"""What became of a training, from what it left: nothing here believes what the plugin says of itself but for counts."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from yolo_gradsafe.checkpoint import read_checkpoint
from yolo_gradsafe.telemetry.schema import RunPaths

__all__ = [
    "Outcome",
    "count_bad",
    "epochs_without_a_step",
    "inspect_checkpoint",
    "read_incidents",
    "read_nan_rows",
    "read_verdicts",
]


@dataclass
class Outcome:
    """What became of one training; travels as JSON."""

    error: str = ""
    """The exception that ended it, or empty."""
    fired: int = 0
    """Batches in which the fault struck."""
    not_finite: dict[str, int] = field(default_factory=dict)
    """Tensors with a non-finite element by part of the state, and of the checkpoints by file; -1: does not load."""
    spoiled_saves: int = 0
    """Checkpoints that were written from an averaged model with NaN, or with numbers beyond float16: Ultralytics
    writes 0 and 65504 in their place, so that the file looks well."""
    nan_rows: int = 0
    """Rows of ``results.csv`` with a non-finite number of Ultralytics' own, though the epoch had a good batch."""
    epochs_redone: int = 0
    """Epochs that Ultralytics started again from ``last.pt``."""
    applied: int = 0
    """Calls of the optimizer: without the steps that the guard or a GradScaler left out (fused optimizers, which CUDA
    has, take the scaler's decision on the device and are called all the same)."""
    rolled_back: int = 0
    """Applied steps that were undone again, by the guard or by Ultralytics: seen in the averaged model's count."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """Guarded: steps by verdict."""
    incidents: dict[str, int] = field(default_factory=dict)
    """Guarded: incidents by kind."""
    map50: float | None = None
    """Accuracy of ``best.pt``, 0 to 1; None when there was no validation of it."""
    seconds: float = 0.0
    """Wall-clock time of the training."""

    @property
    def rollbacks(self) -> int:
        """Times that the guard went back to an earlier state."""
        return self.incidents.get("rollback", 0)

    def lost_to(self, clean: Outcome) -> int:
        """Return the optimizer steps that this training has fewer than the clean one."""
        return max(0, clean.applied - self.applied + self.rolled_back)


def count_bad(tensors: Iterable[Tensor], most: float = math.inf) -> int:
    """Count the float tensors with an element that is not finite, or larger than ``most``."""
    floats = [t for t in tensors if t.is_floating_point()]
    return sum(not bool((t.isfinite() & (t.abs() <= most)).all()) for t in floats)


def inspect_checkpoint(path: Path) -> int:
    """Count the tensors of a checkpoint with a non-finite element, in the model and in the optimizer's state.

    Args:
        path: ``last.pt`` or ``best.pt``.

    Returns:
        The count; -1 when the file does not load.
    """
    found = read_checkpoint(path, path.parent)
    return -1 if found.error else len(found.nonfinite) + found.optimizer_nonfinite


def read_nan_rows(path: Path, but: Container[int] = ()) -> int:
    """Count the rows of ``results.csv`` with a non-finite number, the guard's own columns included.

    Args:
        path: The file.
        but: Epochs that do not count.
    """
    counted = [row for row in _rows(path) if int(row["epoch"]) not in but]
    return sum(any(not math.isfinite(float(value or "nan")) for value in row.values()) for row in counted)


def epochs_without_a_step(run: Path) -> set[int]:
    """Return the epochs of a guarded run in which no step was taken: they have no loss to show."""
    taken = {(int(row["epoch"]), float(row["clip_scale"]) > 0) for row in _rows(RunPaths(run).steps)}
    return {epoch for epoch, _ in taken if (epoch, True) not in taken}


def read_verdicts(run: Path) -> dict[str, int]:
    """Count the optimizer steps of a guarded run by verdict."""
    return dict(Counter(row["verdict"] for row in _rows(RunPaths(run).steps)))


def read_incidents(run: Path) -> dict[str, int]:
    """Count the incidents of a guarded run by kind."""
    path = RunPaths(run).incidents
    if not path.is_file():
        return {}
    return dict(Counter(json.loads(line)["kind"] for line in path.read_text(encoding="utf-8").splitlines()))


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
