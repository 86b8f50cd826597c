"""Many short trainings in one process, stock or guarded, described by data and reported as data.

``python -m tests.runs.variants SPEC.json`` trains them in order and writes ``report.json`` beside the specification. A
tiny model, so that each takes about a second. Two processes that train the same list, one of them guarded, are
comparable bit for bit: what comes before a training in its process is the same.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import arm
from tests.arm import digest, rows, start, state, without_time

TINY = """
nc: 3
scales: {n: [1.0, 1.0, 1024]}
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2], 1, Detect, [nc]]
"""
BASE = {**arm.BASE, "epochs": 2, "warmup_epochs": 0, "verbose": False}


@dataclass
class Variant:
    """What became of one training."""

    error: str
    digests: dict[str, str]
    run: Path
    results: list[dict[str, str]]
    steps: list[dict[str, str]]
    log: str
    more: dict[str, Any] = field(default_factory=dict)

    def losses(self) -> list[dict[str, str]]:
        """Return the numbers of ``results.csv`` that stock writes too, but for the time."""
        return without_time(self.results)

    def summary(self) -> dict[str, Any]:
        """Return ``stability.json``."""
        values: dict[str, Any] = json.loads((self.run / "stability.json").read_text())
        return values


def run_variants(folder: Path, data: Path, variants: dict[str, dict[str, Any]], guarded: bool) -> dict[str, Variant]:
    """Train all in one fresh process.

    Args:
        folder: Where the runs go.
        data: The data set.
        variants: By name: Ultralytics' arguments; beside them ``code``, statements run before training, with
            ``callbacks`` (a dict of lists), ``args``, ``folder`` and ``more`` (a dict that is reported) at hand, and
            ``guard``, options of a guard for this training alone.
        guarded: Whether one guard is attached to each in turn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"data": str(data), "guarded": guarded, "variants": variants}))
    log = start("tests.runs.variants", spec)
    report = folder / "report.json"
    if not report.exists():
        raise AssertionError(f"the trainings died:\n{log[-4000:]}")
    found = json.loads(report.read_text())
    return {name: _variant(folder / name, values) for name, values in found.items()}


def _variant(run: Path, values: dict[str, Any]) -> Variant:
    run = Path(values.pop("run") or run)
    return Variant(run=run, results=rows(run / "results.csv"), steps=rows(run / "stability" / "steps.csv"), **values)


def main(spec: Path) -> None:
    """Train what a file describes, and report."""
    import torch

    from yolo_gradsafe import GradSafe

    torch.set_num_threads(1)
    told = json.loads(spec.read_text())
    (spec.parent / "tiny.yaml").write_text(TINY)
    shared = GradSafe() if told["guarded"] else None
    found = {}
    for name, args in told["variants"].items():
        own = args.pop("guard", None)
        guard = GradSafe(own) if own is not None and told["guarded"] else shared
        found[name] = _train(name, {"data": told["data"], **args}, guard, spec.parent)
    (spec.parent / "report.json").write_text(json.dumps(found))


def _train(name: str, args: dict[str, Any], guard: Any, folder: Path) -> dict[str, Any]:
    """Train once; an interruption from the keyboard is reported like an error."""
    import logging

    import ultralytics
    from ultralytics.utils import LOGGER

    callbacks: dict[str, list[Any]] = {}
    final: dict[str, Any] = {}
    more: dict[str, Any] = {}
    error, lines = "", []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    def capture(trainer: Any) -> None:
        final.update(run=str(trainer.save_dir), state={k: digest(v) for k, v in state(trainer).items()})

    callbacks["on_train_end"] = [capture]
    code = args.pop("code", "")
    handler = Lines()
    LOGGER.addHandler(handler)
    try:
        exec(code, {"callbacks": callbacks, "args": args, "folder": folder, "more": more})
        model = ultralytics.YOLO(args.pop("model", str(folder / "tiny.yaml")))
        for event, functions in callbacks.items():
            for function in functions:
                model.add_callback(event, function)
        if guard:
            guard.attach(model)
        model.train(**{**BASE, "project": str(folder), "name": name, **args})
    except (Exception, KeyboardInterrupt) as failure:
        error = f"{type(failure).__name__}: {failure}"
    finally:
        LOGGER.removeHandler(handler)
    return {
        "error": error,
        "run": final.get("run", ""),
        "digests": final.get("state", {}),
        "log": "\n".join(lines),
        "more": more,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
