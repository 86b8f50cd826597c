"""A long training with faults at random: does anything grow, get lost or slow down?

    python benchmarks/soak.py [--steps 50000] [--rate 0.01]

A model of three convolutions and a head, trained at 32 pixels on drawn images from memory, two a batch, with a fault of
a random kind in one step of a hundred. Printed is a row for every tenth of the training; what it comes to is checked,
and a check that fails ends the program with code 1:

- memory of the process and Python's objects, which stay where they were in the second tenth (the objects until the
  last epoch, for whose validation Ultralytics imports more);
- the files, which are as large as the bytes a row of the second tenth say; pictures and archives, which are bounded;
- the guard's share of a step, which stays what it was in the first tenth;
- the records: a row for every step, an incident for every fault, and finite weights at the end.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import numpy as np
import psutil
import torch
import yaml
from ultralytics.utils import LOGGER

from benchmarks.harness import machine, table
from yolo_gradsafe import YOLO, GradSafe, adapter
from yolo_gradsafe.adapter.fault_target import FaultTarget
from yolo_gradsafe.data import draw_detect
from yolo_gradsafe.drill import faults
from yolo_gradsafe.drill.faults.base import Fault, Undo
from yolo_gradsafe.drill.schedule import Moment
from yolo_gradsafe.telemetry import RunPaths

TENTHS = 10
KINDS = (
    faults.NaNPixel, faults.InfPixel, faults.NaNBackbone, faults.InfHead, faults.NaNLoss, faults.InfLoss,
    faults.NaNGradient, faults.InfGradient, faults.InfRunningVar, faults.NaNRunningMean, faults.NaNWeight,
)  # fmt: skip
"""Faults that show in the step in which they strike."""
KEPT = 20
"""Pictures, and archives, that are kept at most."""
MEMORY = 16.0
"""MiB that the memory may grow from the second tenth to the last."""
OBJECTS, SIZE, SHARE = 0.01, 0.05, 0.25
"""What may change at most from the second tenth to the last, as a share."""
EVERY = 10
"""Steps from one look at the memory to the next."""
TINY = {
    "nc": 3,
    "scales": {"n": [1.0, 1.0, 1024]},
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
}
"""A stride of 8 and a head, the smallest that Ultralytics builds a detector of."""


def memory() -> int:
    """Return the bytes of the process's own pages, in memory or swapped out.

    Pages of libraries are left out where the system tells them apart: others that run decide whether they stay.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return int(psutil.Process().memory_info().rss)
    values = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return sum(int(values[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))


class AtRandom(Fault):
    """A fault of a random kind, at a rate.

    Args:
        rate: Share of the batches that it strikes.
    """

    place = "anywhere"

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.kinds = [kind() for kind in KINDS]
        self.struck: list[tuple[int, int, str]] = []
        """Epoch, batch and kind of each."""
        self.here = (0, 0)

    def due(self, moment: Moment) -> bool:
        """Throw the dice."""
        self.here = (moment.epoch, moment.batch)
        return self.random.random() < self.rate

    def strike(self, target: FaultTarget, batch: dict[str, Any]) -> Undo | None:
        """Let a fault of a random kind do its harm."""
        fault = self.random.choice(self.kinds)
        undo, self.fired = fault.strike(target, batch), self.fired + 1
        self.struck.append((*self.here, type(fault).__name__))
        return undo


@dataclass
class Tenth:
    """What one tenth of the training came to."""

    megabytes: float = math.nan
    objects: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the records so far, by file."""


class Observer:
    """Notes times, memory and sizes, into room that is taken beforehand so that it does not grow itself."""

    def __init__(self, guard: GradSafe, steps: int, epochs: int) -> None:
        self.guard = guard
        self.steps = steps
        self.epochs = epochs
        self.own, self.whole, self.memory = (np.full(steps, np.nan) for _ in range(3))
        self.tenths: list[Tenth] = []
        self._step = 0
        self._inner = 0.0
        self._began = math.nan

    @property
    def callbacks(self) -> dict[str, Any]:
        """Callbacks by event; registered after the guard, they are called before it."""
        return {
            "on_train_start": self._install,
            "on_train_epoch_start": self._begin_epoch,
            "on_train_batch_start": self._begin_batch,
            "on_fit_epoch_end": self._end_epoch,
        }

    def _install(self, trainer: Any) -> None:
        adapter, step = self.guard._session(trainer).trainer, trainer.optimizer_step
        adapter.apply, adapter.skip = self._inside(adapter.apply), self._inside(adapter.skip)

        def optimizer_step() -> None:
            self._inner, start = 0.0, time.perf_counter()
            step()
            self.own[self._step] = time.perf_counter() - start - self._inner

        trainer.optimizer_step = optimizer_step

    def _inside(self, function: Any) -> Any:
        """Time what stock does, too: optimizer, zeroing, EMA."""

        def timed(*args: Any) -> None:
            start = time.perf_counter()
            function(*args)
            self._inner += time.perf_counter() - start

        return timed

    def _begin_epoch(self, _trainer: Any) -> None:
        self._began = math.nan

    def _begin_batch(self, _trainer: Any) -> None:
        now = time.perf_counter()
        if not math.isnan(self._began):
            self.whole[self._step] = now - self._began
            self._step += 1
        self._began = now
        if self._step % EVERY == 0:
            self.memory[self._step] = memory() / 2**20

    def _end_epoch(self, trainer: Any) -> None:
        if trainer.epoch >= self.epochs:  # the final validation tells of another epoch
            return
        self._step += 1
        if (trainer.epoch + 1) % (self.epochs // TENTHS) == 0:
            gc.collect()
            paths = RunPaths(Path(trainer.save_dir))
            files = (paths.steps, paths.layers, paths.incidents)
            part = slice(len(self.tenths) * self.steps // TENTHS, (len(self.tenths) + 1) * self.steps // TENTHS)
            self.tenths.append(
                Tenth(
                    float(np.nanmedian(self.memory[part])),
                    len(gc.get_objects()),
                    {path.name: path.stat().st_size if path.exists() else 0 for path in files},
                )
            )
            print(f"{part.stop:,} of {self.steps:,} steps, {self.tenths[-1].megabytes:.0f} MiB", flush=True)


@dataclass
class Outcome:
    """A training that has ended."""

    observer: Observer
    fault: AtRandom
    paths: RunPaths
    finite: bool
    rate: float


def train(steps: int, rate: float, folder: Path) -> Outcome:
    """Train for a number of optimizer steps, rounded to whole tenths."""
    an_epoch = min(250, max(steps // TENTHS, 1))
    epochs = max(steps // an_epoch // TENTHS, 1) * TENTHS
    tiny = folder / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(TINY))
    data = draw_detect(folder / "data", train=2 * an_epoch, val=2, size=64)
    guard = GradSafe(forensics={"pictures": KEPT, "archive": True}, report={"console": False, "plot": False})
    fault, observer = AtRandom(rate), Observer(guard, epochs * an_epoch, epochs)
    torch.set_num_threads(1)
    random.seed(0)
    final: list[bool] = []

    def look(trainer: Any) -> None:
        tensors = [*trainer.model.state_dict().values(), *trainer.ema.ema.state_dict().values()]
        final.append(all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point()))

    with adapter.without_integrations():
        YOLO(str(tiny)).train(
            data=str(data), epochs=epochs, imgsz=32, batch=2, nbs=2, workers=0, device="cpu", optimizer="SGD", lr0=1e-3,
            warmup_epochs=0, mosaic=0.0, close_mosaic=0, cache="ram", patience=epochs, plots=False, val=False,
            save=False, project=str(folder), name="soak", verbose=False, callbacks=[
                guard, observer.callbacks, fault.callbacks, {"on_train_end": look}
            ],
        )  # fmt: skip
    return Outcome(observer, fault, RunPaths(folder / "soak"), bool(final) and final[0], rate)


def rows(outcome: Outcome) -> list[list[object]]:
    """Return a row for every tenth."""
    found: list[list[object]] = []
    observer = outcome.observer
    for number, tenth in enumerate(observer.tenths):
        part = slice(number * observer.steps // TENTHS, (number + 1) * observer.steps // TENTHS)
        own, whole = np.nanmedian(observer.own[part]) * 1e3, np.nanmedian(observer.whole[part]) * 1e3
        kilobytes = [size / 2**10 for size in tenth.sizes.values()]
        found.append([part.stop, tenth.megabytes, tenth.objects, *kilobytes, own, whole, own / whole * 100])
    return found


def checks(outcome: Outcome, share: float = SHARE) -> dict[str, tuple[bool, str]]:
    """Return what is asked of the training: whether it holds, and the figure.

    Args:
        outcome: The training.
        share: What the guard's share of a step may change by; more for a training too short for a good median.
    """
    tenths, shares = outcome.observer.tenths, [float(str(row[-1])) for row in rows(outcome)]
    first, second, last = tenths[0], tenths[1], tenths[-1]
    recorded, incidents = _recorded(outcome.paths)
    lost = [place for place in outcome.fault.struck if place[:2] not in incidents]
    kept = [len(list((outcome.paths.folder / "batches").glob(end))) for end in ("*.jpg", "*.npz")]
    grown = last.megabytes - second.megabytes
    sizes = {
        f"{name}: size, against what the second tenth predicts": _within(
            last.sizes[name] / (second.sizes[name] + (TENTHS - 2) * (second.sizes[name] - first.sizes[name])), SIZE
        )
        for name in ("steps.csv", "layers.csv")
    }
    return {
        "memory of the last tenth, against the second": (grown <= MEMORY, f"{grown:+.1f} MiB"),
        "Python objects of the ninth tenth, likewise": _within(tenths[-2].objects / second.objects, OBJECTS),
        **sizes,
        "pictures and archives kept": (max(kept) <= KEPT, f"{kept[0]} and {kept[1]}"),
        "the guard's share of a step, last tenth against first": _within(shares[-1] / shares[0], share),
        "rows of steps.csv": (recorded == list(range(1, outcome.observer.steps + 1)), f"{len(recorded):,}"),
        "faults without an incident": (not lost, f"{len(lost)} of {outcome.fault.fired:,}"),
        "weights and EMA finite at the end": (outcome.finite, "yes" if outcome.finite else "no"),
    }


def _within(ratio: float, limit: float) -> tuple[bool, str]:
    return abs(ratio - 1) <= limit, f"{ratio - 1:+.2%}"


def _recorded(paths: RunPaths) -> tuple[list[int], set[tuple[int, int]]]:
    """Return the numbers of the steps in ``steps.csv``, and the places that incidents name."""
    with paths.steps.open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    lines = paths.incidents.read_text().splitlines() if paths.incidents.exists() else []
    return steps, {(line["epoch"], line["batch"]) for line in map(json.loads, lines)}


def report(outcome: Outcome, checked: dict[str, tuple[bool, str]]) -> str:
    """Return the two tables."""
    columns = ["steps", "memory, MiB", "Python objects", "steps.csv, KiB", "layers.csv, KiB", "incidents.jsonl, KiB"]
    columns += ["the guard's own part of a step, ms", "step, ms", "share, %"]
    verdicts = [[name, "yes" if held else "NO", figure] for name, (held, figure) in checked.items()]
    return (
        table("Soak", columns, rows(outcome))
        + "\n"
        + table("Soak, checked", ["what", "holds", "figure"], verdicts)
        + f"\n{machine('cpu')}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the tables, and exit with 1 when a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50_000, help="optimizer steps; 200 or more")
    parser.add_argument("--rate", type=float, default=0.01, help="share of the steps with a fault")
    parser.add_argument("--share", type=float, default=SHARE, help="what the guard's share of a step may change by")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(options.steps, options.rate, Path(folder))
        checked = checks(outcome, options.share)
        print(f"\n{report(outcome, checked)}")
    failed = [name for name, (held, _) in checked.items() if not held]
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    LOGGER.setLevel("ERROR")  # a line for each of many faults would be most of what is printed
    main()
