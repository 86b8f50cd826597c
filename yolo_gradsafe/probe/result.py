"""What the experiment found: ``probe.json``; conventions in ``probe.parts``."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from yolo_gradsafe.probe.parts import Headroom, Init, LrRange, Norms, Setup, Trial
from yolo_gradsafe.report.parts import Part
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["Advice", "ProbeError", "ProbeResult"]

_WIDTH = 118
"""Of the comments in YAML, characters."""


class ProbeError(ValueError):
    """A result that cannot be read, or an experiment that cannot be made; the message says why."""


class Advice(Part):
    """What to set, and why."""

    max_norm: float = Field(description="clip.max_norm, L2 norm of the gradients of one optimizer step")
    max_norm_reason: str = Field(description="why, a sentence")
    lr0: float = Field(description="Ultralytics' lr0, for the optimizer under setup")
    lr0_reason: str = Field(description="why, a sentence")
    amp: bool = Field(description="whether fp16 mixed precision is advised (Ultralytics' amp)")
    amp_reason: str = Field(description="why, a sentence")
    notes: list[str] = Field(description="what else one should know, sentences")


class ProbeResult(Part):
    """The experiment before training: gradient flow, learning rate, gradient norms, precision headroom."""

    schema_version: Literal[1] = Field(default=1, description="version of this schema")
    headline: str = Field(description="the answer in one plain sentence")
    setup: Setup = Field(description="what the experiment was made with")
    init: Init = Field(description="flow at initialisation")
    lr_range: LrRange = Field(description="learning-rate range test")
    trial: Trial | None = Field(
        description="short trainings that verify what is recommended; null without time for them"
    )
    norms: Norms = Field(description="gradient norms in training, with the settings that are recommended")
    headroom: Headroom = Field(description="room that half precision leaves")
    advice: Advice = Field(description="what to set, and why")
    seconds: float = Field(description="seconds that the experiment took")

    def save(self, path: Path) -> None:
        """Write the result as strict JSON: UTF-8, no NaN or Infinity.

        Raises:
            OSError: The file cannot be written.
        """
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> ProbeResult:
        """Read a result that was saved.

        Raises:
            OSError: The file cannot be read.
            ProbeError: The file is not a result, or one of a later version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ProbeError(f"{path} is not a probe of this version of gradsafe: {error}") from None

    def to_yaml(self) -> str:
        """Render the advice as YAML to paste: our options, and Ultralytics' arguments as comments, with reasons."""
        setup, advice = self.setup, self.advice
        lines = [
            *_comment(
                f"gradsafe probe: {setup.model} on {setup.data}, {setup.optimizer}, {setup.imgsz} px, "
                f"batch {setup.batch} x {setup.accumulate}, seed {setup.seed}"
            ),
            *_comment(self.headline),
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
    return textwrap.wrap(line, _WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)
