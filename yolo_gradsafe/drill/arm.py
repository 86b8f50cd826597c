"""One training of a drill, in a process of its own: ``python -m yolo_gradsafe.drill.arm ARM.json``.

A fresh process for each, because the first training in a process can differ in its last bits from later ones, and
because some precisions are set for a whole process.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from yolo_gradsafe import adapter
from yolo_gradsafe.adapter.fault_target import FaultTarget, train_in
from yolo_gradsafe.adapter.stock_models import YOLO
from yolo_gradsafe.drill.case import REPORT, RUN, Arm, draw
from yolo_gradsafe.drill.catalogue import find
from yolo_gradsafe.drill.outcome import (
    Outcome,
    count_bad,
    epochs_without_a_step,
    inspect_checkpoint,
    read_incidents,
    read_nan_rows,
    read_verdicts,
)
from yolo_gradsafe.drill.watch import Watch
from yolo_gradsafe.guard import GradSafe

__all__ = ["main", "train"]


def main(spec: Path) -> None:
    """Train the arm that a file describes, and write ``report.json`` beside it."""
    arm = Arm(**json.loads(spec.read_text(encoding="utf-8")))
    outcome = train(arm)
    (spec.parent / REPORT).write_text(json.dumps(asdict(outcome), indent=2, allow_nan=False), encoding="utf-8")


def train(arm: Arm) -> Outcome:
    """Train an arm in this process."""
    device = str(arm.arguments["device"])
    if device == "cpu":
        torch.set_num_threads(1)
    make = find(arm.fault).make if arm.fault else None
    fault = make(arm.seed) if make else None
    precision, callbacks = train_in(arm.precision, device)
    model, watch = YOLO(arm.model), Watch()
    if arm.guarded:
        GradSafe({"report": {"plot": False}}, **arm.options).attach(model)
    for table in (callbacks, fault.callbacks if fault else {}, watch.callbacks):  # in front of the others: below them
        adapter.register(model, {event: [function] for event, function in table.items()})
    outcome, started = Outcome(), time.monotonic()
    try:
        with adapter.without_integrations():
            model.train(data=arm.data or str(draw(arm)), project=arm.folder, name=RUN, **{**arm.arguments, **precision})
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}".splitlines()[0]
    outcome.seconds = round(time.monotonic() - started, 1)
    outcome.fired = fault.fired if fault else 0
    outcome.epochs_redone = len(watch.epochs) - len(set(watch.epochs))
    outcome.applied, outcome.rolled_back = watch.applied, watch.rolled_back
    outcome.spoiled_saves = watch.spoiled_saves
    run = Path(arm.folder, RUN)
    outcome.nan_rows = read_nan_rows(run / "results.csv", epochs_without_a_step(run))
    outcome.verdicts, outcome.incidents = read_verdicts(run), read_incidents(run)
    if watch.target and watch.epochs:
        _examine(watch.target, outcome)
    return outcome


def _examine(target: FaultTarget, outcome: Outcome) -> None:
    """Add what the trainer and its checkpoints hold at the end."""
    outcome.not_finite = {part: count_bad(tensors.values()) for part, tensors in target.state().items()}
    for path in (target.last, target.best):
        outcome.not_finite[path.name] = inspect_checkpoint(path)
    outcome.map50 = target.accuracy if math.isfinite(target.accuracy) else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
