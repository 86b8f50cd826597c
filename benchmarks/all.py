"""Every benchmark, one after the other, in a few minutes; all tables at the end.

    python benchmarks/all.py [--models yolo26n.yaml yolo26n-pose.yaml] [--repeats 10] [--epochs 6] [--rounds 2]

Each can be run by itself, with more repeats and larger models: ``step.py``, ``telemetry.py``, ``epoch.py``,
``memory.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch

from benchmarks import epoch, memory, step, telemetry


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolo26n.yaml", "yolo26n-pose.yaml"])
    parser.add_argument("--optimizers", nargs="+", default=["SGD", "AdamW", "MuSGD"])
    parser.add_argument("--repeats", type=int, default=10, help="of a step, and of a record")
    parser.add_argument("--epochs", type=int, default=6, help="of an arm in a round, of the first model")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    models, device = ["--models", *options.models], ["--device", options.device]
    repeats = ["--repeats", str(options.repeats), *device]
    rounds = ["--epochs", str(options.epochs), "--rounds", str(options.rounds)]
    tables = []
    try:
        tables.append(step.report([*models, "--optimizers", *options.optimizers, *repeats]))
        tables.append(telemetry.report([*models, *repeats]))
        tables.append(epoch.report(["--model", options.models[0], *rounds, *device]))
        tables.append(memory.report([*models, *device]))
    finally:
        print("\n" + "\n".join(tables))


if __name__ == "__main__":
    main()
