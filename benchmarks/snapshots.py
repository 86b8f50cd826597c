"""What snapshots take of a training's time and of the host's memory.

    python benchmarks/snapshots.py [--models yolo26n.yaml yolo26n-pose.yaml] [--epochs 20]

A guarded training on drawn data, in which the time spent in copying and proving snapshots is added up. The first
snapshot, before the first step, is counted as well; the longer the training, the less it weighs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch

from benchmarks.harness import machine, table
from yolo_gradsafe import YOLO, GradSafe, adapter
from yolo_gradsafe.data import draw_detect, draw_pose
from yolo_gradsafe.recovery.snapshot import Snapshot


class Clock:
    """Adds up the time spent in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1

        return wrapped


def measure(model: str, folder: Path, epochs: int, device: str) -> list[object]:
    """Train, and return what snapshots took."""
    draw = draw_pose if "pose" in model else draw_detect
    data = draw(folder / Path(model).stem, train=64, val=8, size=128)
    taking, proving = Clock(), Clock()
    held: list[int] = []

    def note(trainer: Any) -> None:
        buffer = guard._session(trainer).step.recovery.rollback._buffer
        used = [s for s in [*buffer._trusted, *buffer._free, buffer._candidate] if s is not None]
        held[:] = [sum(t.nbytes for t in s._tensors.values()) for s in used if s.step >= 0]

    guard, began = GradSafe(report={"console": False, "plot": False}), []
    with (
        mock.patch.object(Snapshot, "take", taking.timed(Snapshot.take)),
        mock.patch.object(Snapshot, "finite", proving.timed(Snapshot.finite)),
        adapter.without_integrations(),
    ):
        yolo = YOLO(model)
        yolo.train(
            data=str(data), epochs=epochs, imgsz=128, batch=4, nbs=4, workers=0, device=device, plots=False, val=False,
            pretrained=False, project=str(folder), name="run", exist_ok=True, verbose=False,
            callbacks=[
                guard,
                {"on_train_start": lambda _: began.append(time.perf_counter()), "on_train_epoch_end": note,
                 "on_train_end": lambda _: began.append(time.perf_counter())},
            ],
        )  # fmt: skip
    total = began[1] - began[0]
    share = (taking.seconds + proving.seconds) / total * 100
    steps = epochs * 16
    return [Path(model).stem, steps, taking.calls, round(share, 2), max(held), sum(held)]


def report(arguments: Sequence[str] | None = None) -> str:
    """Measure and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolo26n.yaml", "yolo26n-pose.yaml"])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(model, Path(folder), options.epochs, options.device) for model in options.models]
    columns = ["model", "steps", "snapshots", "% of the time", "bytes of one", "bytes of all"]
    return table("Snapshots", columns, rows) + f"\n{machine(options.device)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    print(f"\n{report(arguments)}")


if __name__ == "__main__":
    main()
