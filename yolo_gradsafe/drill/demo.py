"""The demo: a real training for detection and one for pose, each with a NaN batch, on data drawn on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolo_gradsafe import adapter
from yolo_gradsafe.data import draw_detect, draw_pose
from yolo_gradsafe.drill.faults import NaNPixel
from yolo_gradsafe.guard import GradSafe
from yolo_gradsafe.models import YOLO
from yolo_gradsafe.report.console import table
from yolo_gradsafe.report.records import page_path
from yolo_gradsafe.telemetry.schema import RunPaths

__all__ = ["DEMO", "draw_demo", "run_demo"]

DEMO: dict[str, Any] = {
    "epochs": 8,
    "batch": 4,
    "nbs": 4,  # step after every batch: a small set has few of them
    "imgsz": 128,
    "warmup_epochs": 1,
    "pretrained": False,
    "device": "cpu",
    "workers": 0,
    "seed": 0,
    "exist_ok": True,
}
"""Arguments of both trainings."""
_TASKS: dict[str, tuple[str, Callable[..., Path]]] = {
    "detect": ("yolo26n.yaml", draw_detect),
    "pose": ("yolo26n-pose.yaml", draw_pose),
}
_FAULT = {"epoch": 1, "batch": 5}  # in the first epoch, where stock cannot recover at all


def draw_demo(task: str, folder: Path) -> Path:
    """Draw the data of ``detect`` or ``pose`` into a folder; return its YAML."""
    return _TASKS[task][1](folder, train=64, val=16, size=128)


def run_demo(folder: Path, **changes: Any) -> bool:
    """Train ``yolo26n`` and ``yolo26n-pose`` guarded, with one NaN batch in the first epoch, and print the reports.

    Args:
        folder: Where the data sets and the runs go.
        changes: Arguments of the trainings to change, such as a learning rate that is too high.

    Returns:
        Whether both runs survived their fault with a model that works.
    """
    folder = Path(folder).resolve()
    shown, worked = [], []
    for task, (model, _) in _TASKS.items():
        data = draw_demo(task, folder / "data" / task)
        guard, fault = GradSafe(task, report={"console": False}), NaNPixel(**_FAULT)
        with adapter.without_integrations():
            metrics = YOLO(model).train(
                data=str(data),
                project=str(folder),
                name=task,
                callbacks=[guard, fault.callbacks],
                **{**DEMO, **changes},
            )
        accuracy = metrics.box.map50
        summary = guard.summary
        worked.append(fault.fired == 1 and summary is not None and summary.health == "survived" and accuracy > 0.5)
        if summary is not None:
            shown.append(f"{model}: mAP50 {accuracy:.2f}\n{table(summary)}\n{_paths(folder / task)}")
    print("\n" + "\n\n".join(shown))
    return len(worked) == 2 and all(worked)


def _paths(run: Path) -> str:
    paths = RunPaths(run)
    return "\n".join(
        f"  {path}"
        for path in (page_path(paths), paths.summary, paths.plot, paths.steps, paths.incidents)
        if path.exists()
    )
