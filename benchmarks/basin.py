"""The learning-rate basin: how good is the trained model over the learning rate, stock against guarded?

    python benchmarks/basin.py [--models yolo26n ...] [--optimizers AdamW ...] [--rates 0.003 0.1 ...] [--seeds 0 1]
                               [--sets shapes marks] [--variants plain amp accumulate finetune] [--imgsz 96] [--jobs 2]
                               [--cells FILE]

Nothing is injected. Every cell is a training of its own in a process of its own, stock and guarded in turn with the
same seed; printed is the final mAP50. A guarded training in which the guard changed nothing is stock bit for bit
(`tests/runs/test_parity.py`): its stock arm is run only with `--both`, and taken over else.

The whole basin takes a day on two cores. Cells that are done are kept in the file of `--cells`, one JSON object a line,
and not run again; `--table` only prints, `--picture FILE.png` draws accuracy over rate.

Two sets are drawn that differ in look and difficulty: `shapes` (few large coloured shapes, told by colour) and `marks`
(more and smaller grey ones on stripes, told by form alone). `GRADSAFE_REAL` may name the `data.yaml` of a real one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("YOLO_OFFLINE", "true")

from benchmarks.harness import machine, table
from benchmarks.marks import draw_marks

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
PAIRS = (
    ("yolo26n", "AdamW"), ("yolo26n", "SGD"), ("yolo26n", "MuSGD"), ("yolov8n", "AdamW"), ("yolov8n", "SGD"),
    ("yolo26n-pose", "AdamW"),
)  # fmt: skip
SEEDS = (0, 1)
SETS = ("shapes", "marks")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "amp": {"amp": True},
    "accumulate": {"nbs": 18},
    "finetune": {"epochs": 6},
}
"""Arguments by variant: as they are; with a GradScaler; three batches a step; from weights that were trained before."""
TRAINING = {"batch": 6, "nbs": 6, "epochs": 12, "workers": 0, "plots": False, "verbose": False}
IMAGES = {"train": 48, "val": 24, "seed": 11}
MAP = "metrics/mAP50(B)"


@dataclass(frozen=True)
class Cell:
    """One training."""

    model: str
    optimizer: str
    rate: float
    seed: int = 0
    data: str = "shapes"
    variant: str = "plain"
    guarded: bool = False
    max_norm: float = 10.0
    """Norm to clip at; another than stock's is the plugin's to clip at, without its recovery."""
    imgsz: int = 96
    """Size of the drawn images, and of those that are trained on, in pixels."""

    @property
    def stock(self) -> Cell:
        """The same training without the guard."""
        return replace(self, guarded=False)

    @property
    def setting(self) -> Cell:
        """All but the arm, the seed and the rate."""
        return replace(self, guarded=False, seed=0, rate=0.0)


@dataclass(frozen=True)
class Result:
    """How it ended."""

    cell: Cell
    accuracy: float
    """mAP50 at the end, on the last weights of the EMA; 0 where training died."""
    acted: bool = False
    """Whether the guard changed anything: a step, a rate, the precision."""
    headline: str = ""
    """What the guard says of it."""
    taken_over: bool = False
    """Whether this stock arm was not run, because the guarded one was stock."""


def train(cell: Cell, folder: Path, device: str) -> Result:
    """Train one cell in this process."""
    import torch

    torch.set_num_threads(1)
    from ultralytics import YOLO

    from yolo_gradsafe import GradSafe, adapter

    data = draw_data(cell, folder)
    weights = _trained_before(cell, folder, data, device) if cell.variant == "finetune" else f"{cell.model}.yaml"
    model, guard = YOLO(weights), GradSafe() if cell.guarded else GradSafe(max_norm=cell.max_norm, recovery=False)
    if cell.variant == "amp" and device == "cpu":
        _scale_on_the_cpu(model)  # before the guard looks
    if cell.optimizer == "MuSGD" and device == "cpu":
        _orthogonalize_in_fp32()
    if cell.guarded or cell.max_norm != 10.0:
        guard.attach(model)
    run = {"project": str(folder / "runs"), "name": "-".join(map(str, asdict(cell).values())), "exist_ok": True}
    args = {**TRAINING, **VARIANTS[cell.variant], **run, "imgsz": cell.imgsz, "data": str(data)}
    died = ""
    with adapter.without_integrations():
        try:
            model.train(**args, optimizer=cell.optimizer, lr0=cell.rate, seed=cell.seed, device=device)
        except Exception as error:  # such as Ultralytics' own after three epochs of NaN
            died = str(error)
    results = folder / "runs" / run["name"] / "results.csv"
    rows = list(csv.DictReader(results.open())) if results.exists() else []
    accuracy = 0.0 if died or not rows else float(rows[-1][MAP])
    return Result(cell, accuracy, *_said(guard) if cell.guarded else (), **({"headline": died} if died else {}))


def _said(guard: Any) -> tuple[bool, str]:
    summary = guard.summary
    return bool(summary.incidents) or summary.steps.skipped > 0, summary.headline


def draw_data(cell: Cell, folder: Path) -> Path:
    """Return the YAML of a cell's data set."""
    from yolo_gradsafe.data import draw_detect, draw_pose

    if cell.data == "real":
        return Path(os.environ["GRADSAFE_REAL"])
    pose = cell.model.endswith("pose")
    where, images = folder / f"{cell.data}-{'pose' if pose else 'detect'}-{cell.imgsz}", {**IMAGES, "size": cell.imgsz}
    if pose:  # the second set has other pictures, twice as many objects an image being out of reach for kites
        return draw_pose(where, **{**images, "seed": IMAGES["seed"] + 10 * (cell.data == "marks")})
    return draw_detect(where, **images) if cell.data == "shapes" else draw_marks(where, **images)


def _trained_before(cell: Cell, folder: Path, data: Path, device: str) -> Path:
    """Return weights that stock has trained on other pictures at a rate that suits, once."""
    from ultralytics import YOLO

    from yolo_gradsafe import adapter

    name = f"before-{cell.model}-{cell.data}-{cell.imgsz}"
    weights = folder / "runs" / name / "weights" / "last.pt"
    with FileLock(folder / f"{name}.lock"):  # jobs start at the same time
        if not weights.exists():
            with adapter.without_integrations():
                YOLO(f"{cell.model}.yaml").train(
                    **TRAINING, imgsz=cell.imgsz, data=str(data), optimizer="AdamW", lr0=0.003, seed=99, device=device,
                    project=str(folder / "runs"), name=name, exist_ok=True,
                )  # fmt: skip
    return weights


def _orthogonalize_in_fp32() -> None:
    """Let MuSGD compute in float32 what it computes in bfloat16: 25 times as fast on a CPU that has no bfloat16."""
    import torch
    from ultralytics.optim import muon

    own = muon.zeropower_via_newtonschulz5

    def in_fp32(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.float):
            return own(*args, **kwargs)

    muon.zeropower_via_newtonschulz5 = in_fp32


def _scale_on_the_cpu(model: Any) -> None:
    """Give the training a GradScaler of the CPU, which Ultralytics leaves off there."""
    import torch

    def scale(trainer: Any) -> None:
        trainer.scaler = torch.amp.GradScaler("cpu")

    model.add_callback("on_pretrain_routine_end", scale)


# The basin ------------------------------------------------------------------------------------------------------------


def run(cells: Iterable[Cell], kept: Path, folder: Path, device: str, jobs: int, both: bool) -> None:
    """Train the cells that are not done yet, guarded ones first, and keep what came out."""
    done = {result.cell for result in load(kept)}

    def guarded_then_stock(cell: Cell) -> str:
        try:
            both_arms(cell)
        except RuntimeError as error:
            return f"left out: {error}"
        return "done: " + " ".join([*_words(cell), f"lr0={cell.rate:g} seed={cell.seed}"])

    def both_arms(cell: Cell) -> None:
        results = {result.cell: result for result in load(kept)}
        guarded = results.get(cell) or run_cell(cell, folder, device, kept)
        if cell.stock in results:
            return
        if guarded.acted or both:
            run_cell(cell.stock, folder, device, kept)
        else:
            _keep(Result(cell.stock, guarded.accuracy, taken_over=True), kept)

    todo = [cell for cell in cells if cell not in done or cell.stock not in done]
    with ThreadPoolExecutor(jobs) as pool:
        for said in pool.map(guarded_then_stock, todo):
            print(said, flush=True)


def run_cell(cell: Cell, folder: Path, device: str, kept: Path) -> Result:
    """Train a cell in a fresh process; its output goes to a file."""
    command = [sys.executable, __file__, "--cell", json.dumps(asdict(cell)), "--folder", str(folder)]
    with (folder / "log.txt").open("a") as log:
        ran = subprocess.run([*command, "--device", device], stdout=subprocess.PIPE, stderr=log, text=True, check=False)
        log.write(ran.stdout)
    told = [line for line in ran.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        raise RuntimeError(f"{cell} failed; see {folder / 'log.txt'}")
    result = _result(json.loads(told[-1].removeprefix("RESULT ")))
    _keep(result, kept)
    return result


def _keep(result: Result, kept: Path) -> None:
    with kept.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def load(kept: Path) -> list[Result]:
    """Return what is done."""
    return [_result(json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []


def _result(line: dict[str, Any]) -> Result:
    return Result(**{**line, "cell": Cell(**line["cell"])})


# What it comes to -----------------------------------------------------------------------------------------------------


def tables(results: Sequence[Result]) -> str:
    """Return a table: a row a setting and arm, a column a rate, the mean over the seeds, with a star of a single one.

    After it comes what that amounts to.
    """
    rates = sorted({result.cell.rate for result in results})
    rows, below, shares = [], [], {False: [], True: []}
    settings = sorted({result.cell.setting for result in results}, key=lambda c: [str(v) for v in asdict(c).values()])
    for setting in settings:
        at = {(arm, rate): _accuracies(results, setting, arm, rate) for arm in (False, True) for rate in rates}
        for arm in (False, True):
            rows.append([*_words(setting), "guarded" if arm else "stock", *(_mean(at[arm, rate]) for rate in rates)])
        best = max(rates, key=lambda rate: statistics.mean(at[False, rate]) if at[False, rate] else -1.0)
        for rate in rates:
            stock, guarded = at[False, rate], at[True, rate]
            if not stock or not guarded:
                continue
            spread = max(max(values) - min(values) for values in (stock, guarded))
            if statistics.mean(guarded) < statistics.mean(stock) - max(spread, 0.02):
                below.append(f"{' '.join(_words(setting))} at {rate:g}")
            if rate >= best and statistics.mean(at[False, best]) > 0:
                for arm, values in ((False, stock), (True, guarded)):
                    shares[arm].append(statistics.mean(values) / statistics.mean(at[False, best]))
    columns = ["model", "optimizer", "set", "variant", "arm", *(f"{rate:g}" for rate in rates)]
    said = [table("Final mAP50 over lr0", columns, rows)]
    if shares[True]:
        means = {arm: statistics.mean(values) for arm, values in shares.items()}
        kept = f"stock {means[False]:.2f}, guarded {means[True]:.2f}"
        said.append(f"From the best rate up, of the best rate's accuracy: {kept}.")
    said.append(f"Guarded below stock by more than the seeds' spread (at least 0.02): {', '.join(below) or 'nowhere'}.")
    return "\n".join(said)


def _mean(accuracies: Sequence[float]) -> str:
    return f"{statistics.mean(accuracies):.2f}{'*' * (len(accuracies) == 1)}" if accuracies else ""


def stock_accuracy(results: Sequence[Result], setting: Cell) -> dict[float, float]:
    """Return the mean final accuracy of stock by learning rate."""
    rates = {result.cell.rate for result in results}
    found = {rate: _accuracies(results, setting.setting, guarded=False, rate=rate) for rate in rates}
    return {rate: statistics.mean(values) for rate, values in found.items() if values}


def _accuracies(results: Sequence[Result], setting: Cell, guarded: bool, rate: float) -> list[float]:
    mine = [r for r in results if r.cell.setting == setting and r.cell.guarded == guarded and r.cell.rate == rate]
    return [result.accuracy for result in mine]


def _words(setting: Cell) -> list[str]:
    data = setting.data if setting.imgsz == Cell.imgsz else f"{setting.data} {setting.imgsz} px"
    return [setting.model, setting.optimizer, data, setting.variant]


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw accuracy over rate: a panel a setting, two curves, a dot a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings = sorted({result.cell.setting for result in results}, key=lambda c: [str(v) for v in asdict(c).values()])
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    size = (4 * columns, 2.6 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for axis, setting in zip(axes.flat, settings, strict=False):
        for guarded, colour, name in ((False, "#c44e52", "stock"), (True, "#2a6fbb", "guarded")):
            arm = [r for r in results if r.cell.setting == setting and r.cell.guarded == guarded]
            dots = [(result.cell.rate, result.accuracy) for result in arm]
            means = {rate: statistics.mean(y for x, y in dots if x == rate) for rate in sorted({x for x, _ in dots})}
            axis.plot(list(means), list(means.values()), color=colour, label=name, lw=2, zorder=2 + guarded)
            axis.scatter(*zip(*dots, strict=True), color=colour, s=10, zorder=2 + guarded)
        axis.set_title(" ".join(word for word in _words(setting) if word != "plain"), fontsize=9)
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(settings) :]:
        axis.axis("off")
    for column in range(columns):
        lowest = axes[(len(settings) - 1 - column) // columns][column]
        lowest.set_xlabel("lr0")
        lowest.tick_params(labelbottom=True)
    for row in axes:
        row[0].set_ylabel("final mAP50")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that were asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=sorted({model for model, _ in PAIRS}))
    parser.add_argument("--optimizers", nargs="+", default=sorted({optimizer for _, optimizer in PAIRS}))
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--sets", nargs="+", choices=[*SETS, "real"], default=SETS)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["plain"])
    parser.add_argument("--imgsz", type=int, default=Cell.imgsz, help="size of the images in pixels")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time, a thread each")
    parser.add_argument("--both", action="store_true", help="run the stock arm also where the guard changed nothing")
    parser.add_argument("--cells", type=Path, help="where results are kept; a file in the folder by default")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "gradsafe-basin"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--picture", type=Path, help="draw accuracy over rate")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(options.folder / "settings"))
    if options.cell:
        result = train(Cell(**json.loads(options.cell)), options.folder, options.device)
        print("RESULT " + json.dumps(asdict(result)))
        return 0
    kept = options.cells or options.folder / "cells.jsonl"
    sets = [*options.sets, "real"] if os.environ.get("GRADSAFE_REAL") and "real" not in options.sets else options.sets
    pairs = [pair for pair in PAIRS if pair[0] in options.models and pair[1] in options.optimizers]
    cells = [
        Cell(model, optimizer, rate, seed, data, variant, guarded=True, imgsz=options.imgsz)
        for seed in options.seeds for data in sets for variant in options.variants
        for model, optimizer in pairs for rate in options.rates
    ]  # fmt: skip
    if not options.table:
        run(cells, kept, options.folder, options.device, options.jobs, options.both)
    results = load(kept)
    if not results:
        print("no cell is done")
        return 1
    print(machine(options.device))
    print(tables(results))
    if options.picture:
        draw(results, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
