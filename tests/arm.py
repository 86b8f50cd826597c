"""One arm of a comparison: a real training in a process of its own, described by data, reported as data.

``python -m tests.arm ARM.json`` trains; ``run_arm`` does that and reads what became of it. A fresh process for each
arm, because the first training in a process can differ in its last bits from later ones. It is forked from one that has
done nothing but import (``tests/preload.py``), which takes half of such a training's time.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

_MODELS = Path(find_spec("ultralytics").submodule_search_locations[0]) / "cfg" / "models"
DETECT, POSE = (
    ("yolo26n.yaml", "yolo26n-pose.yaml") if (_MODELS / "26").is_dir() else ("yolo11n.yaml", "yolo11n-pose.yaml")
)
"""The newest models that the installed Ultralytics has."""
needs_musgd = pytest.mark.skipif(not find_spec("ultralytics.optim"), reason="MuSGD came with Ultralytics 8.4.0")


@dataclass
class Arm:
    """What to train, and what to do to it."""

    data: str
    model: str = DETECT
    args: dict[str, Any] = field(default_factory=dict)
    """Ultralytics arguments that win over ``BASE``."""
    guard: dict[str, Any] | None = None
    """Options of the guard; None trains stock."""
    nan_pixel: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, batch), from 1, of batches in which a pixel becomes NaN."""
    undo: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, batch) of batches whose effect on the whole state is undone: the oracle, the run without that batch."""
    scaler: float | None = None
    """Initial loss scale of a GradScaler; None leaves the trainer's."""
    autocast: str | None = None
    """Precision of the forward pass on the CPU: ``float16``, ``bfloat16``."""
    loggers: list[str] = field(default_factory=list)
    """Ultralytics' integrations that are on, by their names in its settings; none of the others is."""
    code: str = ""
    """Statements run before training; ``callbacks`` (a dict of lists) and ``guard`` are at hand."""


@dataclass
class Result:
    """What became of an arm."""

    error: str
    digests: dict[str, str]
    """Hashes of weights and buffers, EMA, optimizer state and scaler at the end."""
    not_finite: dict[str, int]
    """Tensors with a non-finite element, by the same names."""
    fired: list[tuple[int, int]]
    """Faults that were injected."""
    events: dict[str, int]
    steps: list[dict[str, str]]
    results: list[dict[str, str]]
    run: Path
    log: str

    def incidents(self) -> list[dict[str, Any]]:
        """Return the incidents that were recorded."""
        return records(self.run / "stability" / "incidents.jsonl")

    def losses(self) -> list[dict[str, str]]:
        """Return the numbers of ``results.csv`` that stock writes too; its wall-clock column is left out."""
        return without_time(self.results)

    def unknown(self) -> list[tuple[str, str]]:
        """Return (epoch, column) of the guard's own numbers that are not finite although a step was applied."""
        own = [name for name in self.results[0] if name.startswith("gradsafe/")]
        assert own, "the guard has columns of its own"
        taken = {row["epoch"] for row in self.steps if float(row["clip_scale"]) > 0}
        rows = [row for row in self.results if row["epoch"] in taken]
        return [(row["epoch"], name) for row in rows for name in own if not math.isfinite(float(row[name] or "nan"))]


TIMEOUT = 550
"""Seconds."""

BASE = {
    "epochs": 3,
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "workers": 0,
    "device": "cpu",
    "plots": False,
    "warmup_epochs": 1,
    "optimizer": "SGD",
    "seed": 0,
    "name": "train",
}


def run_arm(arm: Arm, folder: Path) -> Result:
    """Train an arm in a fresh process."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "arm.json"
    spec.write_text(json.dumps(asdict(arm)))
    forks = not arm.loggers and arm.args.get("device", "cpu") == "cpu"  # CUDA does not bear a fork
    log = _fork(spec) if forks else _start(spec)
    report = folder / "report.json"
    if not report.exists():
        raise AssertionError(f"the arm died:\n{log[-4000:]}")
    values = json.loads(report.read_text())
    run = folder / "train"
    return Result(
        **values, steps=rows(run / "stability" / "steps.csv"), results=rows(run / "results.csv"), run=run, log=log
    )


def _fork(spec: Path) -> str:
    """Train in a process that has everything imported; return what it printed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    log = spec.parent / "log.txt"
    process = context.Process(target=_forked, args=(spec, log, dict(os.environ)))
    process.start()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"the arm hung:\n{log.read_text()[-4000:]}")
    return log.read_text()


def _forked(spec: Path, log: Path, env: dict[str, str]) -> None:
    os.environ.update(env)
    os.chdir(spec.parent)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(spec)


def start(module: str, spec: Path, **env: str) -> str:
    """Run ``python -m MODULE SPEC`` beside the file; return what it printed."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", module, str(spec)],
        cwd=spec.parent, env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    return done.stdout + done.stderr


def own_settings(folder: Path) -> str:
    """Give a folder Ultralytics' settings of its own, by which runs go into it; return ``YOLO_CONFIG_DIR``.

    By default they go into the checkout that Ultralytics' environment lies in, where there is one.
    """
    config = str(folder / "settings")
    values = {"runs_dir": str(folder / "runs"), "mlflow": False, "wandb": False}
    code = f"from ultralytics import settings; settings.update({values})"
    env = {**os.environ, "YOLO_CONFIG_DIR": config}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, timeout=TIMEOUT)
    return config


def _start(spec: Path) -> str:
    """Train in a process with Ultralytics' settings of its own, which are read at import; return what it printed."""
    settings = spec.parent / "settings"
    settings.mkdir()
    return start("tests.arm", spec, YOLO_CONFIG_DIR=str(settings))


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def records(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one a line; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(spec: Path) -> None:
    """Train the arm described in a file, and write ``report.json`` beside it."""
    import torch
    import ultralytics
    from ultralytics.engine import trainer as engine

    from yolo_gradsafe import GradSafe

    torch.set_num_threads(1)
    arm = Arm(**json.loads(spec.read_text()))
    if arm.loggers:
        _switch_on(arm.loggers)
    guard = None if arm.guard is None else GradSafe(arm.guard)
    callbacks: dict[str, list[Any]] = {}
    events: dict[str, int] = {}
    fired: list[tuple[int, int]] = []
    final: dict[str, Any] = {}
    gradients: dict[Any, Any] = {}

    def on(event: str):
        return lambda fn: callbacks.setdefault(event, []).append(fn)

    if arm.autocast:
        dtype = getattr(torch, arm.autocast)
        engine.autocast = lambda *_, **__: torch.autocast("cpu", dtype=dtype)

    @on("on_pretrain_routine_end")
    def _set_scaler(trainer: Any) -> None:
        if arm.scaler:
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=arm.scaler, growth_interval=1000)

    @on("on_train_start")
    def _inject(trainer: Any) -> None:
        preprocess = trainer.preprocess_batch

        def poisoned(batch: Any) -> Any:
            batch = preprocess(batch)
            place = (trainer.epoch + 1, trainer.batch_number)
            if list(place) in arm.nan_pixel:
                batch["img"][0, 0, 0, 0] = float("nan")
                fired.append(place)
            return batch

        trainer.preprocess_batch = poisoned

    @on("on_train_epoch_start")
    def _first_batch(trainer: Any) -> None:
        trainer.batch_number = 0

    @on("on_train_batch_start")
    def _count_batch(trainer: Any) -> None:
        trainer.batch_number += 1
        if [trainer.epoch + 1, trainer.batch_number] in arm.undo:
            final["before"] = _clone(state(trainer))
            gradients.update({p: None if p.grad is None else p.grad.clone() for p in trainer.model.parameters()})

    @on("on_train_batch_end")
    def _undo(trainer: Any) -> None:
        if before := final.pop("before", None):
            _put_back(trainer, before)
            for parameter, gradient in gradients.items():
                parameter.grad = gradient

    @on("on_train_end")
    def _capture(trainer: Any) -> None:
        final.update(state(trainer))

    for event in ("on_train_epoch_start", "on_fit_epoch_end", "on_train_end", "on_train_batch_end"):
        on(event)(lambda _, event=event: events.update({event: events.get(event, 0) + 1}))

    exec(arm.code, {"callbacks": callbacks, "guard": guard, "torch": torch})
    model = getattr(ultralytics, "RTDETR" if "rtdetr" in arm.model else "YOLO")(arm.model)
    for event, functions in callbacks.items():
        for function in functions:
            model.add_callback(event, function)
    if guard:
        guard.attach(model)
    error = ""
    try:
        model.train(data=arm.data, project=str(spec.parent), **{**BASE, **arm.args})
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    report = {
        "error": error,
        "digests": {name: digest(tensors) for name, tensors in final.items()},
        "not_finite": {
            name: sum(not bool(t.isfinite().all()) for t in tensors if t.is_floating_point())
            for name, tensors in final.items()
        },
        "fired": fired,
        "events": events,
    }
    (spec.parent / "report.json").write_text(json.dumps(report))


def _switch_on(loggers: list[str]) -> None:
    """Set which integrations load; under pytest, which this process has imported, most of them would not."""
    from ultralytics import utils

    utils.TESTS_RUNNING = False
    known = ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard", "wandb")
    utils.SETTINGS.update({name: name in loggers for name in known if name in utils.SETTINGS})


def state(trainer: Any) -> dict[str, list[Any]]:
    """Return all tensors of a trainer's state, by part, as they live."""
    import torch

    optimizer = [v for s in trainer.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    scale = getattr(trainer.scaler, "_scale", None)
    return {
        "model": list(trainer.model.state_dict().values()),
        "ema": [*trainer.ema.ema.state_dict().values(), torch.tensor(trainer.ema.updates)],
        "optimizer": optimizer,
        "scaler": [] if scale is None else [scale],
    }


def _clone(state: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [t.clone() for t in tensors] for name, tensors in state.items()}


def _put_back(trainer: Any, before: dict[str, list[Any]]) -> None:
    for name, tensors in state(trainer).items():
        for live, old in zip(tensors, before[name], strict=False):
            live.copy_(old)
    if not before["optimizer"]:
        trainer.optimizer.state.clear()
    trainer.ema.updates = int(before["ema"][-1])
    trainer.optimizer.zero_grad()


def without_time(results: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the columns of ``results.csv`` that two equal trainings have in common: stock's, but for the clock."""
    return [{k: v for k, v in row.items() if k != "time" and "gradsafe" not in k} for row in results]


def digest(tensors: list[Any]) -> str:
    """Return a hash of the tensors' bytes."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
