"""Does the probe keep its word? On the settings of the basin: what it calls too high, and what following it comes to.

    python benchmarks/probe.py [--models yolo26n ...] [--optimizers AdamW ...] [--rates 0.01 0.1] [--seeds 0 1]
                               [--cells F] [--budget 120 | --trial-steps 24]

For each model, optimizer and learning rate that a user might have set, the probe runs on the drawn set of
`benchmarks/basin.py`, with the arguments of its trainings. Printed are

- the rate at which it says that training breaks down, beside the measured one: halfway between the last rate that
  keeps 80 % of the best accuracy and the first that does not, by the stock cells of the basin (at least one of each);
- the final mAP50 of stock trainings with the user's rate and with what the probe says, the same seeds.

Cells of the basin (`--cells`) are only read. Trainings that are missing for this run, without the guard but for a clip
value that the probe recommends, and are kept in `followed.jsonl` in the folder. Where the probe says to keep the
settings, both arms are the same trainings.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import basin
from benchmarks.harness import machine, table
from yolo_gradsafe.probe import ProbeResult, probe

RATES = (0.01, 0.1)
KEEPS = 0.8
"""Share of the best accuracy that a rate keeps that does not break training."""


def measured_edge(accuracy: Mapping[float, float]) -> float | None:
    """Return the rate at which accuracy breaks down, None where the rates that were measured do not show it.

    Args:
        accuracy: Final accuracy by learning rate.
    """
    rates = sorted(accuracy)
    best = max(rates, key=lambda rate: accuracy[rate])
    above = [rate for rate in rates if rate >= best]
    for before, rate in itertools.pairwise(above):
        if accuracy[rate] < KEEPS * accuracy[best]:
            return math.sqrt(before * rate)
    return None


def follow(cell: basin.Cell, folder: Path, options: argparse.Namespace) -> ProbeResult:
    """Ask the probe about a training of the basin."""
    data = basin.draw_data(cell, folder)
    rate = {"imgsz": cell.imgsz, "optimizer": cell.optimizer, "lr0": cell.rate, "device": options.device}
    return probe(
        f"{cell.model}.yaml",
        str(data),
        trial_steps=options.trial_steps,
        budget=options.budget,
        out=folder / "probes" / f"{cell.model}-{cell.optimizer}-{cell.rate:g}",
        **basin.TRAINING,
        **rate,
    )


@dataclass
class Trainings:
    """Final accuracies of trainings; those that are not known yet are run and kept."""

    measured: Path
    """Cells of the basin, which are read."""
    folder: Path
    device: str

    @property
    def kept(self) -> Path:
        """What was run here."""
        return self.folder / "followed.jsonl"

    def accuracies(self, cells: Sequence[basin.Cell]) -> list[float]:
        """Return the final accuracy of each."""
        known = {result.cell: result for result in [*basin.load(self.measured), *basin.load(self.kept)]}
        return [(known.get(c) or basin.run_cell(c, self.folder, self.device, self.kept)).accuracy for c in cells]


def row(cell: basin.Cell, options: argparse.Namespace, trainings: Trainings) -> list[object]:
    """Ask the probe about a setting, train with what it says, and return a row of the table."""
    found = follow(cell, options.folder, options)
    print(f"{cell.model} {cell.optimizer} {cell.rate:g}: {found.headline}", flush=True)
    advised = replace(cell, rate=found.advice.lr0, max_norm=found.advice.max_norm)
    before, after = (
        trainings.accuracies([replace(arm, seed=seed) for seed in options.seeds]) for arm in (cell, advised)
    )
    spread = max(0.02, *(max(values) - min(values) for values in (before, after)))
    edge = measured_edge(basin.stock_accuracy(basin.load(trainings.measured), cell))
    said = found.lr_range.lr_diverges
    return [
        cell.model,
        cell.optimizer,
        f"{cell.rate:g}",
        f"{said:.2g}" if said else "none",
        f"{edge:.2g}" if edge else "not known",
        f"{max(said / edge, edge / said):.1f}" if said and edge else "",
        f"{advised.rate:g}",
        f"{advised.max_norm:g}",
        f"{statistics.mean(before):.2f}",
        f"{statistics.mean(after):.2f}",
        f"{spread:.2f}",
        "yes" if statistics.mean(after) < statistics.mean(before) - spread else "no",
        f"{found.seconds:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the probe about each setting, train with what it says, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolo26n", "yolov8n"])
    parser.add_argument("--optimizers", nargs="+", default=["AdamW", "SGD"])
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates that the user has set")
    parser.add_argument("--seeds", nargs="+", type=int, default=basin.SEEDS)
    parser.add_argument("--cells", type=Path, help="the basin's results; a file in the folder by default")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "gradsafe-basin"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of each probe")
    parser.add_argument("--trial-steps", type=int, help="steps of its short trainings, whatever the time")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    trainings = Trainings(options.cells or options.folder / "cells.jsonl", options.folder, options.device)
    cells = [basin.Cell(m, o, rate) for m in options.models for o in options.optimizers for rate in options.rates]
    rows = [row(cell, options, trainings) for cell in cells]
    columns = ["model", "optimizer", "lr0", "breaks, said", "breaks, measured", "factor", "lr0, said", "max_norm, said"]
    columns += ["mAP50 without", "mAP50 with", "spread", "worse", "seconds"]
    print(machine(options.device))
    print(table("The probe's word", columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
