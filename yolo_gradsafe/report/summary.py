"""The summary of a run: what ``stability.json`` holds.

A guard holds one, so nothing is imported here that reads records; ``summarize`` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from yolo_gradsafe.report.health import HOPELESS, Health, RunVerdict, Status, verdict
from yolo_gradsafe.report.parts import (
    Accuracy,
    Advice,
    Amp,
    Earlier,
    Epoch,
    GradNorm,
    IncidentEntry,
    LoweredRate,
    Outcome,
    Part,
    Reason,
    ReportError,
    Run,
    Spike,
    Steps,
)
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["Summary"]

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Summary(Part):
    """The stability of one training run."""

    schema_version: Literal[1, 2, 3] = Field(default=3, description="version of this schema")
    status: Status = Field(description="how the run ended; unfinished: it still runs, or was interrupted or killed")
    health: Health = Field(
        description="healthy: no incident, nothing skipped; survived: incidents, and training continued; failed: an "
        f"exception ended the run, or its last {HOPELESS} steps (all, if fewer) were skipped"
    )
    learned: Literal["yes", "no", "unknown"] = Field(
        default="unknown",
        description="whether the model learned: yes: accuracy rose and was kept; no: it did not, or something shows "
        "that it cannot; unknown: too few epochs, no validation, or good from the start. Since version 3",
    )
    reasons: list[Reason] = Field(
        default_factory=list, description="why it did not learn, or why that is unknown, the most telling first"
    )
    accuracy: Accuracy | None = Field(
        default=None, description="what validation said of the model; null where there was none that says anything"
    )
    earlier: Earlier | None = Field(
        default=None, description="the last earlier run of the same data and model beside this one; else null"
    )
    spike: Spike | None = Field(
        default=None, description="largest jump of the loss or the norm to 1e6 times its usual value or more; else null"
    )
    validation_spike: Spike | None = Field(
        default=None, description="largest jump of a validation loss to 1e6 times its usual value or more; else null"
    )
    lowered_rate: LoweredRate | None = Field(
        default=None, description="the learning rate, where it was too high and was lowered; else null"
    )
    headline: str = Field(description="the run in one plain sentence")
    run: Run = Field(description="what was trained, and where")
    steps: Steps = Field(description="optimizer steps, counted")
    grad_norm: GradNorm | None = Field(
        description="distribution of the L2 norm of the unscaled gradients before clipping; null where no step was "
        "applied with a finite norm"
    )
    threshold: float | None = Field(
        description="norm above which the last step would have been clipped; null if clipping is off"
    )
    amp: Amp = Field(description="mixed precision's loss scale")
    incidents: list[IncidentEntry] = Field(description="what needed a remedy, and the remedies, in order")
    outcomes: list[Outcome] = Field(
        default_factory=list, description="what came of the incidents, those of one step together, in order"
    )
    advice: list[Advice] = Field(default_factory=list, description="settings to change, the most pressing first")
    epochs: list[Epoch] = Field(description="one entry an epoch, in order")
    options: dict[str, Any] = Field(description="the resolved options of the run")
    damaged_steps: int = Field(
        default=0, description="lines of stability/steps.csv that cannot be read, and are left out"
    )
    files: list[str] = Field(description="the report's files that exist, relative to the run's folder")

    @property
    def verdict(self) -> RunVerdict:
        """``health`` and ``learned`` in one word, for a colour and a name."""
        return verdict(self.health, self.learned, self.accuracy)

    def __repr__(self) -> str:
        """Return the headline, for an interpreter."""
        return f"<Summary: {self.headline}>"

    def __str__(self) -> str:
        """Return the table that a training prints at its end."""
        from yolo_gradsafe.report.console import table

        return table(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from yolo_gradsafe.report.notebook import summary_html

        return summary_html(self)

    def save(self, path: Path) -> None:
        """Write the summary as strict JSON: UTF-8, no NaN or Infinity; as YAML if that is what the file is called.

        Raises:
            OSError: The file cannot be written.
        """
        values = self.model_dump(mode="json")
        if path.suffix in {".yaml", ".yml"}:
            text = yaml.dump(values, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=118)
        else:
            text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        write_atomically(path, text)

    @classmethod
    def load(cls, path: Path) -> Summary:
        """Read a summary that was saved.

        Raises:
            OSError: The file cannot be read.
            ReportError: The file is not a summary, or one of a later version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ReportError(f"{path} is not a summary of this version of gradsafe: {error}") from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of ``stability.json``."""
        return cls.model_json_schema(mode="serialization")
