"""What it costs to know every tensor's gradient norm: the guard's meter against how users record gradients today.

    python benchmarks/telemetry.py [--models yolo26n.yaml yolo26l.yaml] [--repeats 10]

All see the same gradients, those of a real backward pass, in turn in one process. The meter computes the norm that
clipping needs in the same pass, so its record replaces the one inside stock's ``clip_grad_norm_``; every other recorder
comes on top of it. Printed are medians: the record by itself, and clip and record together, as ratios to stock's
``clip_grad_norm_`` alone. Stock makes its pass to scale the gradients whether they are too large or not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch

from benchmarks import recorders
from benchmarks.harness import machine, medians, table
from benchmarks.trainer import set_up
from yolo_gradsafe.gradients.norms import GradientMeter, clip_by_norm_

MAX_NORM = 10.0
CLIP, METER = "stock's clip_grad_norm_, no record", "gradsafe's meter"
OVER, UNDER = "norm over the threshold", "norm under it"


def measure(model: str, folder: Path, device: str, repeats: int) -> list[list[object]]:
    """Time every way of recording on one model's gradients."""
    trainer, guard = set_up(model, "SGD", folder, device)
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.grad is not None]
    parameters, meter = [p for _, p in named], GradientMeter(named)
    gradients = [(name, p.grad) for name, p in named]
    norm = float(torch.nn.utils.get_total_norm([g for _, g in gradients]))
    original = [g * (5 * MAX_NORM / norm) for _, g in gradients]

    def load() -> None:
        torch._foreach_copy_([g for _, g in gradients], original)

    def measure_and_clip(max_norm: float) -> None:
        measured, reading = meter.measure([])
        clip_by_norm_(measured, reading.norm, max_norm)

    board, add_histograms = recorders.tensorboard(folder / "board")
    others: dict[str, Callable[[recorders.Named], object]] = {
        "p.grad.norm().item() in a loop": recorders.loop,
        "Lightning's grad_norm": recorders.lightning,
        "wandb.watch histograms": recorders.wandb_watch,
        board: add_histograms,
    }
    arms: dict[str, Callable[[], object]] = {
        CLIP: lambda: torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM),
        METER: lambda: meter.measure([]),
        OVER: lambda: measure_and_clip(MAX_NORM),
        UNDER: lambda: measure_and_clip(10 * MAX_NORM),
        **{name: lambda record=record: record(gradients) for name, record in others.items()},
    }
    ms = medians(arms, repeats, device, before=load)
    guard.teardown(trainer)
    clip, label = ms[CLIP], f"{Path(model).stem}, {len(gradients)} tensors"
    rows: list[list[object]] = [
        [label, CLIP, clip, 1.0, 1.0],
        *([label, f"{METER}, {case}", ms[METER], ms[METER] / clip, ms[case] / clip] for case in (OVER, UNDER)),
    ]
    return rows + [[label, name, ms[name], ms[name] / clip, (clip + ms[name]) / clip] for name in others]


def report(arguments: Sequence[str] | None = None) -> str:
    """Measure and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolo26n.yaml", "yolo26l.yaml"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            rows += measure(model, Path(folder), options.device, options.repeats)
    columns = ["model", "method", "ms", "ratio to clip_grad_norm_", "clip and record, ratio"]
    return table("A record of every tensor", columns, rows) + f"\n{machine(options.device)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    print(f"\n{report(arguments)}")


if __name__ == "__main__":
    main()
