"""What a post-mortem says, as it stands in ``postmortem.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from yolo_gradsafe.report.health import Health
from yolo_gradsafe.report.parts import Advice, Number, Part
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["CheckpointEntry", "Finding", "Learned", "Postmortem", "Severity"]

Learned = Literal["yes", "no", "unknown"]
Severity = Literal["error", "warning", "note"]


class Finding(Part):
    """Something that is on record, and what it means."""

    kind: str = Field(description="name of the rule that found it")
    severity: Severity = Field(
        description="error: the model that training ended with is not the one that was wanted; warning: something went "
        "wrong, and training went on; note: worth knowing"
    )
    title: str = Field(description="what it is, a sentence")
    evidence: str = Field(description="what is on record, with numbers and names")
    epochs: list[int] = Field(default_factory=list, description="epochs that it is about, from 1")


class CheckpointEntry(Part):
    """A checkpoint that was looked through."""

    file: str = Field(description="relative to the run's folder")
    state: str = Field(description="sound, damaged, or why it could not be read")
    epoch: int = Field(description="epoch that it was saved after, from 1; 0 where training took it out at its end")
    tensors: int = Field(description="weights and statistics that were looked at")


class Postmortem(Part):
    """What can be known of a training that had no guard."""

    schema_version: Literal[1] = Field(default=1, description="version of this schema")
    status: Literal["finished", "unfinished"] = Field(
        description="finished: its last epoch is done, or it stopped by patience or time; unfinished: killed, "
        "interrupted, crashed or still running"
    )
    health: Health = Field(
        description="healthy: nothing wrong is on record; survived: a warning is; failed: an error is"
    )
    learned: Learned = Field(description="whether the accuracy says that the model learned")
    headline: str = Field(description="the run in one plain sentence")
    about: dict[str, str] = Field(description="what was trained, by name")
    epochs: int = Field(description="epochs on record")
    planned: int = Field(description="epochs asked for; 0 where that is not on record")
    accuracy: str = Field(default="", description="column of results.csv that accuracy is read from; or empty")
    best: Number | None = Field(default=None, description="best accuracy; null without one")
    best_epoch: int = Field(default=0, description="epoch of the best accuracy, from 1; 0 without one")
    last: Number | None = Field(default=None, description="accuracy of the last epoch; null without one")
    findings: list[Finding] = Field(description="what is on record, the worst first")
    advice: list[Advice] = Field(description="what to change or to do, the most pressing first")
    checkpoints: list[CheckpointEntry] = Field(description="checkpoints that were looked through")

    def save(self, path: Path) -> None:
        """Write it as strict JSON: UTF-8, no NaN or Infinity.

        Raises:
            OSError: The file cannot be written.
        """
        write_atomically(path, self.to_json() + "\n")

    def to_json(self) -> str:
        """Return it as strict JSON."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return json.dumps(values, indent=2, allow_nan=False)
