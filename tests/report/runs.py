"""Runs to report on, written by the recorder itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from yolo_gradsafe.telemetry import Incident, Recorder, RunInfo, StepRow

NAN, INF = math.nan, math.inf

INFO = RunInfo(
    task="detect",
    model="yolo26n.pt",
    optimizer="AdamW",
    batch=16,
    epochs=4,
    device="cpu",
    started="2025-01-01T10:00:00+00:00",
    finished="2025-01-01T11:00:00+00:00",
    environment={"python": "3.11.7", "torch": "2.8.0"},
)


def row(step: int, epoch_steps: int = 10, **changes: object) -> StepRow:
    """Return a healthy step, with a wavy norm of 2 to 6 and a falling loss."""
    values = StepRow(
        epoch=(step - 1) // epoch_steps + 1,
        step=step,
        batch=(step - 1) % epoch_steps + 1,
        lr=0.01 * (1 - step / 1e6),
        lr_factor=1.0,
        loss=80 / (1 + 0.003 * step) + 4 * math.sin(1.7 * step),
        grad_norm=4 + 2 * math.sin(step),
        threshold=10.0,
        clip_scale=1.0,
        amp_scale=1.0,
        verdict="ok",
        items={"box_loss": 2 / (1 + 0.002 * step), "cls_loss": 3 / (1 + 0.004 * step), "dfl_loss": 1.1},
    )
    return replace(values, **changes)  # type: ignore[arg-type]


def clipped(step: int, norm: float = 20.0, **changes: object) -> StepRow:
    """Return a step that was over the threshold."""
    return row(step, **{"grad_norm": norm, "clip_scale": 10 / norm, "verdict": "clipped", **changes})  # type: ignore[arg-type]


def bad(step: int, **changes: object) -> StepRow:
    """Return a step that was skipped."""
    values = {"loss": NAN, "grad_norm": NAN, "clip_scale": 0.0, "verdict": "bad_batch", "images": ["a.jpg", "b,c.jpg"]}
    return row(step, **{**values, **changes})  # type: ignore[arg-type]


def overflow(step: int, scale: float = 65536.0, **changes: object) -> StepRow:
    """Return a step that GradScaler skipped."""
    values = {"grad_norm": INF, "clip_scale": 0.0, "verdict": "amp_overflow", "amp_scale": scale}
    return row(step, **{**values, **changes})  # type: ignore[arg-type]


def incident(step: int, **changes: object) -> Incident:
    """Return the incident that goes with a skipped step."""
    values = Incident(
        kind="bad_batch",
        epoch=(step - 1) // 10 + 1,
        step=step,
        batch=(step - 1) % 10 + 1,
        message="The loss was nan.",
        action="The step was skipped.",
        loss=NAN,
        items={"box_loss": NAN, "cls_loss": INF, "dfl_loss": 1.0},
        tensors=["model.0.conv.weight"],
        images=["/data/images/a.jpg", "/data/images/b.jpg"],
    )
    return replace(values, **changes)  # type: ignore[arg-type]


def write(
    run: Path,
    steps: int = 30,
    change: Callable[[int], StepRow] = row,
    incidents: list[Incident] | None = None,
    info: RunInfo | None = INFO,
    options: str | None = "clip:\n  mode: norm\n  max_norm: 10.0\n",
) -> Path:
    """Record a run of so many steps, and return its folder."""
    recorder = Recorder(run, flush_steps=5000, flush_seconds=60).start()
    for step in range(1, steps + 1):
        recorder.step(change(step))
    for entry in incidents or []:
        recorder.incident(entry)
    if info:
        recorder.info(info)
    if options:
        recorder.options(options)
    recorder.flush()
    return run
