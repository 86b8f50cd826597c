"""The experiment's result on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from yolo_gradsafe.probe.result import ProbeResult
from yolo_gradsafe.report.console import shown

__all__ = ["table"]

WIDTH = 80
LABEL = 16


def table(result: ProbeResult) -> str:
    """Return the result as plain text, aligned, at most 80 columns wide, without a line break at its end."""
    lines = textwrap.wrap(shown(result.headline), WIDTH)
    for label, texts in _rows(result):
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
    yield "lr0", [f"{advice.lr0:g} ({setup.lr0:g} without this test)", advice.lr0_reason]
    if norms.median is not None:
        size = f"{len(norms.norm)} steps of {norms.images:.3g} images at lr {norms.lr:g}"
        quantiles = f"median {norms.median:.4g}, p95 {norms.p95:.4g}, p99 {norms.p99:.4g}, max {norms.max:.4g}"
        yield "gradient norm", [f"{quantiles} ({size}; {norms.median_per_image:.3g} an image)"]
    else:
        yield "gradient norm", ["no finite one"]
    yield "clip.max_norm", [f"{advice.max_norm:g}", advice.max_norm_reason]
    yield "fp16", [f"{headroom.fp16}: {headroom.reason}"]
    yield "bf16", [headroom.bf16]
    if advice.notes:
        yield "notes", advice.notes
