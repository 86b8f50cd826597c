"""What a training without a guard leaves behind: ``args.yaml``, ``results.csv``, and what its checkpoints hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from yolo_gradsafe.judge.learning import FEWEST_EPOCHS, Course, EpochScore, judge_learning
from yolo_gradsafe.report.beside import read_arguments, read_results
from yolo_gradsafe.report.parts import ReportError
from yolo_gradsafe.report.postmortem.checkpoint import Checkpoint
from yolo_gradsafe.telemetry.schema import Learned, RunPaths

__all__ = ["CHECKPOINTS", "Facts", "locate_stock", "read_facts"]

CHECKPOINTS = ("weights/last.pt", "weights/best.pt")
"""Files that are looked through, relative to the run's folder."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """What is on record of a training. Epochs count from 1; a number that is not there is nan."""

    run: Path
    arguments: dict[str, Any] = field(default_factory=dict)
    """Ultralytics' ``args.yaml``; empty where there is none."""
    results: pl.DataFrame = field(default_factory=pl.DataFrame)
    """``results.csv``, everything a number; of an epoch that is there twice the later row."""
    rows: list[int] = field(default_factory=list)
    """Epochs of all rows of ``results.csv``, in order."""
    checkpoints: Sequence[Checkpoint] = ()
    written: float = 0.0
    """When ``results.csv`` was last written, seconds since 1970."""

    @cached_property
    def epochs(self) -> list[int]:
        """Epochs on record."""
        return [int(epoch) for epoch in self.results["epoch"].to_list()] if self.results.height else []

    @property
    def planned(self) -> int:
        """Epochs asked for; 0 where that is not on record."""
        value = self.arguments.get("epochs")
        return value if isinstance(value, int) else 0

    @property
    def validated(self) -> bool:
        """Whether every epoch was validated: without it stock writes zeros."""
        return self.arguments.get("val") is not False

    @property
    def last(self) -> Checkpoint | None:
        """``last.pt``, if it could be read."""
        return self._checkpoint("last.pt")

    @property
    def best(self) -> Checkpoint | None:
        """``best.pt``, if it could be read."""
        return self._checkpoint("best.pt")

    @property
    def finished(self) -> bool:
        """Whether training came to its end: it strips its last checkpoint then."""
        if self.last is not None:
            return self.last.stripped
        return bool(self.epochs) and self.epochs[-1] == self.planned

    @property
    def may_run(self) -> bool:
        """Whether the next epoch would not be late yet."""
        durations = self.durations
        typical = float(np.median(durations)) if len(durations) else 0.0
        return not self.finished and time.time() - self.written < max(60.0, 3 * typical)

    @cached_property
    def durations(self) -> Array:
        """Seconds that each epoch took, validation included; of one resumed in between nan."""
        clock = self.column("time") if self.results.height else np.zeros(0)
        took = np.diff(clock, prepend=0.0)
        return np.where(took > 0, took, np.nan)

    @cached_property
    def accuracy_column(self) -> str:
        """Column that accuracy is read from; of several (boxes and masks) the last. Empty without one."""
        columns = [name for name in self.results.columns if name.startswith("metrics/mAP50-95(")]
        columns += [n for n in self.results.columns if n in ("metrics/accuracy_top1", "metrics/mIoU")]
        return columns[-1] if columns and self.validated else ""

    @cached_property
    def accuracy(self) -> Array:
        """Accuracy by epoch; empty where there is none."""
        return self.column(self.accuracy_column) if self.accuracy_column else np.zeros(0)

    @cached_property
    def unlearned(self) -> bool:
        """Whether accuracy did not rise in epochs enough, by the rules of a guarded training's report."""
        fitness = [n for n in self.results.columns if n.startswith("metrics/mAP50-95(")] or [self.accuracy_column]
        scores = np.sum([self.column(name) for name in fitness], axis=0) if self.accuracy_column else []
        items = {part: {n: self.column(n) for n in self.named(f"{part}/")} for part in ("train", "val")}
        epochs = [
            EpochScore(
                self.epochs[k],
                float(score),
                *({n.partition("/")[2]: float(values[k]) for n, values in items[part].items()} for part in items),
            )
            for k, score in enumerate(scores)
        ]
        course = Course(epochs, self.planned, self.finished, lr=self.peak_rate, from_scratch=self.from_scratch)
        return len(epochs) >= FEWEST_EPOCHS and judge_learning(course).learned is Learned.NO

    @property
    def from_scratch(self) -> bool:
        """Whether the weights began at random, as far as that is on record."""
        model, weights = str(self.arguments.get("model") or ""), self.arguments.get("pretrained")
        return model.endswith((".yaml", ".yml")) and not isinstance(weights, str)

    @cached_property
    def rate(self) -> Array:
        """Learning rate at the end of each epoch; of several groups the lowest, as biases begin high."""
        columns = self.named("lr/")
        return np.min([self.column(name) for name in columns], axis=0) if columns else np.zeros(0)

    @property
    def peak_rate(self) -> float:
        """Highest learning rate on record, nan without one."""
        rates = self.rate[np.isfinite(self.rate)]
        return float(rates.max()) if len(rates) else float("nan")

    @property
    def warm_up(self) -> float:
        """Epochs in which the learning rate rises; 0 where that is not on record."""
        value = self.arguments.get("warmup_epochs")
        return float(value) if isinstance(value, (int, float)) else 0.0

    def named(self, start: str) -> list[str]:
        """Return the columns whose names start so."""
        return [name for name in self.results.columns if name.startswith(start)]

    def column(self, name: str) -> Array:
        """Return a column."""
        return np.asarray(self.results[name].cast(pl.Float64).fill_null(np.nan), dtype=np.float64)

    def total(self, start: str) -> Array:
        """Return the sum of the columns whose names start so, by epoch; nan where one is."""
        columns = self.named(start)
        return np.sum([self.column(name) for name in columns], axis=0) if columns else np.zeros(0)

    def _checkpoint(self, name: str) -> Checkpoint | None:
        return next((one for one in self.checkpoints if one.file.endswith(name) and not one.error), None)


def locate_stock(path: Path) -> Path:
    """Return the folder of a run that a path belongs to: the folder itself, its ``weights/``, or a file in either.

    Raises:
        ReportError: Nothing there is of an Ultralytics training.
    """
    folder = path.parent if path.is_file() else path
    if folder.absolute().name == "weights":
        folder = folder.absolute().parent
    if not any((folder / name).is_file() for name in ("args.yaml", "results.csv", *CHECKPOINTS)):
        raise ReportError(f"no gradsafe records in {folder}, and no args.yaml, results.csv or weights/last.pt either")
    return folder


def read_facts(run: Path, checkpoints: Sequence[Checkpoint]) -> Facts:
    """Read what is on record of a run.

    Args:
        run: Its folder.
        checkpoints: What its checkpoints were found to hold.
    """
    paths = RunPaths(run)
    table = read_results(paths)
    rows: list[int] = []
    if "epoch" in table.columns:
        table = table.filter(pl.col("epoch").is_finite())
        rows = [int(epoch) for epoch in table["epoch"].to_list()]
        if "time" not in table.columns:
            table = table.with_columns(pl.lit(float("nan")).alias("time"))
        table = table.unique(["epoch"], keep="last", maintain_order=True).sort("epoch")
    else:
        table = pl.DataFrame()
    file = run / "results.csv"
    written = file.stat().st_mtime if file.is_file() else 0.0
    return Facts(run, read_arguments(paths), table, rows, checkpoints, written)
