"""The whole fault drill, stock against guarded: every fault, task, precision and optimizer.

    python benchmarks/drill.py [--out runs/benchmark-drill] [--jobs 2] [--quick] [--few] [--faults nan-pixel ...]

Many hours on a CPU; ``--few`` takes some. Leaves out fp16, which a CPU is slow in, unless ``--precisions`` asks for it.
Goes on where it was broken off, as long as ``--out`` is the same. Writes ``drill.md`` and ``drill.json`` there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

from yolo_gradsafe.cli import app
from yolo_gradsafe.drill.scenario import OPTIMIZERS, PRECISIONS, TASKS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the matrix as ``gradsafe drill --full`` does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/benchmark-drill")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="six steps a training")
    parser.add_argument("--few", action="store_true", help="three cases a fault or so, which meet all there is")
    parser.add_argument("--faults", nargs="*", default=[])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--precisions", nargs="+", default=[p for p in PRECISIONS if p != "fp16"])
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS)
    options = parser.parse_args(arguments)
    words = ["drill", *options.faults, "--full", "--resume", "--out", options.out]
    words += ["--jobs", str(options.jobs), "--seeds", str(options.seeds), *(["--quick"] if options.quick else [])]
    words += ["--few"] if options.few else []
    for name in ("task", "precision", "optimizer"):
        for value in getattr(options, f"{name}s"):
            words += [f"--{name}", value]
    app(words)


if __name__ == "__main__":
    main()
