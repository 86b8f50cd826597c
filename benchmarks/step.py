"""The guarded optimizer step against stock's, in turn, in one process.

    python benchmarks/step.py [--models yolo26n.yaml ...] [--optimizers SGD AdamW MuSGD] [--repeats 60]

Both steps run on the same trainer with the same gradients. Everything of the guard is on as it is by default, its
records and its work at the start and the end of a batch included. Printed are medians and the ratio of the whole step;
beside it the ratio of the part in which they differ, timed with an optimizer and an EMA that do nothing: those two take
the same time in both, and most of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch
from ultralytics.engine.trainer import BaseTrainer

from benchmarks.harness import machine, medians, table
from benchmarks.trainer import set_up


def measure(model: str, optimizer: str, folder: Path, device: str, repeats: int) -> list[list[object]]:
    """Time both steps, with and without a norm above the threshold."""
    trainer, guard = set_up(model, optimizer, folder, device)
    parameters = [p for p in trainer.model.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in parameters]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    step, rows = trainer.optimizer_step, []

    def guarded() -> None:
        guard.on_train_batch_start(trainer)
        step()
        guard.on_train_batch_end(trainer)

    def stock() -> None:
        BaseTrainer.optimizer_step(trainer)

    for clips, target in (("no", 5.0), ("yes", 50.0)):
        scaled = [g * (target / norm) for g in gradients]

        def load(scaled: list[torch.Tensor] = scaled) -> None:
            for parameter, gradient in zip(parameters, scaled, strict=True):
                parameter.grad = gradient.clone()

        arms = {
            "stock": stock,
            "guarded": guarded,
            "stock's part": lambda: idle(trainer, stock),
            "guarded part": lambda: idle(trainer, guarded),
        }
        ms = medians(arms, repeats, device, before=load)
        ratio, part = ms["guarded"] / ms["stock"], ms["guarded part"] / ms["stock's part"]
        rows.append([Path(model).stem, optimizer, clips, ms["stock"], ms["guarded"], ratio, part])
    guard.teardown(trainer)
    return rows


def idle(trainer: Any, step: Callable[[], None]) -> None:
    """Take a step in which neither the optimizer nor the EMA does anything."""
    optimizer, update, ema = trainer.optimizer, trainer.optimizer.step, trainer.ema
    optimizer.step, trainer.ema = lambda *_, **__: None, None
    try:
        step()
    finally:
        optimizer.step, trainer.ema = update, ema


def report(arguments: Sequence[str] | None = None) -> str:
    """Measure and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolo26n.yaml", "yolo26l.yaml", "yolo26n-pose.yaml"])
    parser.add_argument("--optimizers", nargs="+", default=["SGD", "AdamW", "MuSGD"])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for optimizer in options.optimizers:
                rows += measure(model, optimizer, Path(folder), options.device, options.repeats)
    columns = ["model", "optimizer", "clips", "stock ms", "guarded ms", "ratio", "ratio without optimizer and EMA"]
    return table("The optimizer step", columns, rows) + f"\n{machine(options.device)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    print(f"\n{report(arguments)}")


if __name__ == "__main__":
    main()
