"""The summary of a run: what ``stability.json`` holds, and how it is made from the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from yolo_gradsafe.report import tally
from yolo_gradsafe.report.health import HOPELESS, Health, Status, headline, health, status
from yolo_gradsafe.report.parts import Amp, Epoch, GradNorm, IncidentEntry, Part, Run, Steps
from yolo_gradsafe.report.records import (
    ReportError,
    locate,
    present,
    read_incidents,
    read_options,
    read_run,
    read_steps,
)
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["ReportError", "Summary", "summarize"]


class Summary(Part):
    """The stability of one training run."""

    schema_version: Literal[1] = Field(default=1, description="version of this schema")
    status: Status = Field(description="how the run ended; unfinished: it still runs, or was killed")
    health: Health = Field(
        description="healthy: no incident, nothing skipped; survived: incidents, and training went on; failed: an "
        f"exception ended the run, or its last {HOPELESS} steps (all, if fewer) were skipped"
    )
    headline: str = Field(description="the run in one plain sentence")
    run: Run = Field(description="what was trained, and where")
    steps: Steps = Field(description="optimizer steps, counted")
    grad_norm: GradNorm | None = Field(
        description="distribution of the L2 norm of the unscaled gradients before clipping; null where no step was "
        "applied with a finite norm"
    )
    threshold: float | None = Field(
        description="norm above which the last step would have been clipped; null where nothing clips"
    )
    amp: Amp = Field(description="mixed precision's loss scale")
    incidents: list[IncidentEntry] = Field(description="what needed a remedy, in order")
    epochs: list[Epoch] = Field(description="one entry an epoch, in order")
    options: dict[str, Any] = Field(description="the resolved options of the run")
    files: list[str] = Field(description="the report's files that exist, relative to the run's folder")

    def save(self, path: Path) -> None:
        """Write the summary as strict JSON: UTF-8, no NaN or Infinity.

        Raises:
            OSError: The file cannot be written.
        """
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")

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


def summarize(run: Path) -> Summary:
    """Summarize a run from its records; it may have finished, crashed, or still run.

    Args:
        run: The run's folder, its ``stability/`` folder, or a file in either.

    Raises:
        OSError: A record cannot be read.
        ReportError: There are no records.
    """
    paths = locate(Path(run))
    rows, incidents, info = read_steps(paths), read_incidents(paths), read_run(paths)
    steps, skipped_at_end = tally.steps(rows), tally.skipped_at_end(rows)
    places = rows["epoch"].tail(1).to_list() or [incident.epoch for incident in incidents[-1:]]
    return Summary(
        status=status(info),
        health=health(info, steps, len(incidents), skipped_at_end),
        headline=headline(info, steps, len(incidents), skipped_at_end, epoch=max(places, default=0)),
        run=info,
        steps=steps,
        grad_norm=tally.grad_norm(rows),
        threshold=tally.threshold(rows),
        amp=tally.amp(rows, info.amp),
        incidents=incidents,
        epochs=tally.epochs(rows),
        options=read_options(paths),
        files=present(paths),
    )
