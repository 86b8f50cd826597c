"""Whole training epochs, guarded against stock, through the public API.

    python benchmarks/epoch.py [--model yolo26n.yaml] [--imgsz 64] [--epochs 6] [--rounds 3] [--device cpu]

Each arm is a process of its own, because the first training in a process warms up what a second one would find warm.
The arms of a round are up at the same time but train in turn, an epoch each, while the others wait: what else the
machine does strikes all alike, which it would not if one ran after the other. There are three arms: stock, guarded, and
stock again, whose ratio to the first is the noise that the guard's ratio has to be seen against.

An epoch's clock runs from the end of the one before it, so every callback is in it. Validation and checkpoints are
off and images are small, which makes the guard's share as large as it gets. The first epoch, in which much is done for
the first time, is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch

from benchmarks.harness import machine, table
from benchmarks.trainer import draw, owner_of
from yolo_gradsafe import GradSafe, adapter

ARMS = ("stock", "guarded", "stock again")
PATIENCE = 300
"""Seconds that an epoch may take."""


def train(turn: Connection, arm: str, model: str, args: dict[str, Any]) -> None:
    """Train one arm: before each epoch wait for its turn, after it tell how many seconds it took, until killed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    owner = owner_of(model)
    if arm == "guarded":
        GradSafe().attach(owner)
    started = 0.0

    def begin(_: Any) -> None:
        nonlocal started
        turn.recv()
        started = time.perf_counter()

    def end(trainer: Any) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        turn.send(time.perf_counter() - started)
        begin(trainer)

    owner.add_callback("on_train_start", begin)
    owner.add_callback("on_fit_epoch_end", end)
    with adapter.without_integrations():
        owner.train(**args)


def run_round(model: str, args: dict[str, Any], epochs: int, folder: Path, shift: int) -> dict[str, list[float]]:
    """Train all arms side by side.

    Args:
        model: The model.
        args: Training arguments.
        epochs: Epochs that are counted.
        folder: Where the runs' folders are made.
        shift: Which arm is first in the first epoch; the next epoch's is the one after it.

    Returns:
        Seconds of the counted epochs by arm.
    """
    context, seconds = get_context("spawn"), {arm: [] for arm in ARMS}
    turns, processes = {}, []
    for arm in ARMS:
        turns[arm], theirs = context.Pipe()
        run = {**args, "project": str(folder), "name": f"{shift}-{arm.replace(' ', '-')}"}
        processes.append(context.Process(target=train, args=(theirs, arm, model, run), daemon=True))
        processes[-1].start()
        theirs.close()
    try:
        for epoch in range(epochs + 1):
            first = (epoch + shift) % len(ARMS)
            for arm in ARMS[first:] + ARMS[:first]:
                turns[arm].send(epoch)
                if not turns[arm].poll(PATIENCE):
                    raise TimeoutError(f"{arm}: epoch {epoch + 1} took more than {PATIENCE} s")
                took = turns[arm].recv()
                if epoch:
                    seconds[arm].append(took)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return seconds


def report(arguments: Sequence[str] | None = None) -> str:
    """Measure and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--imgsz", type=int, default=64)
    parser.add_argument("--images", type=int, default=128, help="one batch of them a step")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6, help="counted epochs of an arm in a round")
    parser.add_argument("--rounds", type=int, default=3, help="times that all is done with fresh processes")
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        data = draw(options.model, Path(folder), train=options.images, size=options.imgsz)
        args = {"data": str(data), "imgsz": options.imgsz, "epochs": options.epochs + 2, "device": options.device}
        args |= {
            "batch": options.batch,
            "nbs": options.batch,
            "workers": 0,
            "plots": False,
            "val": False,
            "save": False,
        }
        for number in range(options.rounds):
            for arm, values in run_round(options.model, args, options.epochs, Path(folder), number).items():
                seconds[arm] += values
    columns = ["arm", "ms an epoch, median", "ratio to stock, median", "ratio, quartiles", "epochs"]
    title = f"Training epochs: {Path(options.model).stem}, {options.images} images of {options.imgsz} pixels"
    rows = [_row(arm, values, seconds[ARMS[0]]) for arm, values in seconds.items()]
    return table(title, columns, rows) + f"\n{machine(options.device)}\n"


def _row(arm: str, seconds: list[float], stock: list[float]) -> list[object]:
    """Compare an arm's epochs with the stock arm's of the same turns."""
    ratios = [ours / theirs for ours, theirs in zip(seconds, stock, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return [arm, statistics.median(seconds) * 1e3, middle, f"{low:.3f} to {high:.3f}", len(seconds)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    print(f"\n{report(arguments)}")


if __name__ == "__main__":
    main()
