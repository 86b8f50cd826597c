"""The advice as YAML to paste: the guard's options, and Ultralytics' arguments in comments."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolo_gradsafe.probe.result import ProbeResult

__all__ = ["render"]

WIDTH = 118


def render(result: ProbeResult) -> str:
    """Render the advice; ``Config.load`` reads it, and the comments say what to give to Ultralytics."""
    setup, advice = result.setup, result.advice
    lines = [
        *_comment(
            f"gradsafe probe: {setup.model} on {setup.data}, {setup.optimizer}, {setup.imgsz} px, "
            f"batch {setup.batch} x {setup.accumulate}, seed {setup.seed}"
        ),
        *_comment(result.headline),
        "clip:",
        "  mode: norm",
        *_comment(advice.max_norm_reason, "  "),
        f"  max_norm: {advice.max_norm!r}",
        "",
        "# For Ultralytics, as arguments of the training:",
        f"# lr0={advice.lr0:g}",
        *_comment(advice.lr0_reason, "", "    "),
        f"# amp={advice.amp}",
        *_comment(advice.amp_reason, "", "    "),
    ]
    for note in advice.notes:
        lines += _comment(f"- {note}")
    return "\n".join(lines) + "\n"


def _comment(text: str, pad: str = "", indent: str = "") -> list[str]:
    """Return a text as comment lines; a line break in it, as in a file's name, does not end the comment."""
    start = f"{pad}# {indent}"
    line = "".join(char if char.isprintable() else " " for char in text)
    return textwrap.wrap(line, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)
