"""The experiment's result on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from yolo_gradsafe.probe.parts import Arm, Trial
from yolo_gradsafe.probe.result import ProbeResult
from yolo_gradsafe.probe.steps import STOCK_MAX_NORM
from yolo_gradsafe.report.console import shown

__all__ = ["table"]

WIDTH = 80
LABEL = 16
TRIAL = "short trainings"
"""Label of a table, whose lines stay as they are."""


def table(result: ProbeResult) -> str:
    """Return the result as plain text, aligned, at most 80 columns wide, without a line break at its end."""
    lines = textwrap.wrap(shown(result.headline), WIDTH)
    for label, texts in _rows(result):
        if label == TRIAL:
            lines += [
                f"  {first:<{LABEL}}{text}" for first, text in zip([label, *[""] * len(texts)], texts, strict=False)
            ]
            continue
        for text in texts:
            lines += textwrap.wrap(
                shown(text),
                WIDTH,
                initial_indent=f"  {label:<{LABEL}}",
                subsequent_indent=" " * (LABEL + 2),
                break_on_hyphens=False,
            )
            label = ""
    return "\n".join(lines)


def _rows(result: ProbeResult) -> Iterator[tuple[str, list[str]]]:
    setup, init, norms, headroom, advice = result.setup, result.init, result.norms, result.headroom, result.advice
    yield (
        "set-up",
        [
            f"{setup.model} on {setup.data}",
            f"{setup.task}, {setup.optimizer}, {setup.imgsz} px, batch {setup.batch} x {setup.accumulate}, "
            f"{setup.device}, seed {setup.seed}, {result.seconds:.0f} s",
        ],
    )
    yield "initialisation", [f"{init.verdict}: {init.reason}"]
    yield "lr0", [_kept(advice.lr0, setup.lr0), advice.lr0_reason]
    yield "clip.max_norm", [_kept(advice.max_norm, STOCK_MAX_NORM), advice.max_norm_reason]
    if result.trial is not None:
        yield TRIAL, list(_trial(result.trial))
    if norms.median is not None:
        size = f"{len(norms.norm)} steps of {norms.images:.3g} images at lr {norms.lr:g}"
        quantiles = f"median {norms.median:.4g}, p95 {norms.p95:.4g}, p99 {norms.p99:.4g}, max {norms.max:.4g}"
        yield "gradient norm", [f"{quantiles} ({size}; {norms.median_per_image:.3g} an image)"]
    else:
        yield "gradient norm", ["no finite one"]
    yield "fp16", [f"{headroom.fp16}: {headroom.reason}"]
    yield "bf16", [headroom.bf16]
    if advice.notes:
        yield "notes", advice.notes


def _kept(advised: float, before: float) -> str:
    return f"{before:g}, unchanged" if advised == before else f"{advised:g} in the place of {before:g}"


def _trial(trial: Trial) -> Iterator[str]:
    """Yield a small table: an arm a line, its validation loss after so many steps."""
    arms = [arm for arm in (trial.yours, trial.lr0, trial.max_norm) if arm is not None]
    yield f"Validation loss after so many steps, the mean of {len(trial.yours.courses)} seeds:"
    yield _line("lr0", "max_norm", [str(step) for step in trial.at])
    for arm in arms:
        yield _line(f"{arm.lr0:g}", f"{arm.max_norm:g}", [_mean(arm, i) for i in range(len(trial.at))])


def _line(lr0: str, max_norm: str, values: list[str]) -> str:
    return f"{lr0:<9}{max_norm:<9}" + "".join(f"{value:>8}" for value in values)


def _mean(arm: Arm, look: int) -> str:
    losses = [float(course.held_out[look]) for course in arm.courses]
    return f"{sum(losses) / len(losses):.4g}"
