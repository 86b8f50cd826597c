"""The summary of a run: what ``stability.json`` holds, and how it is made from the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from yolo_gradsafe.report import tally
from yolo_gradsafe.report.advice import Facts, advise
from yolo_gradsafe.report.beside import read_arguments, read_layers, read_quarantine
from yolo_gradsafe.report.health import DIVERGED, HOPELESS, Health, Status, headline, health, status
from yolo_gradsafe.report.occasions import troubles
from yolo_gradsafe.report.parts import Advice, Amp, Epoch, GradNorm, IncidentEntry, Part, Run, Steps
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

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


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
    incidents: list[IncidentEntry] = Field(description="what needed a remedy, and the remedies, in order")
    advice: list[Advice] = Field(default_factory=list, description="settings to change, the most pressing first")
    epochs: list[Epoch] = Field(description="one entry an epoch, in order")
    options: dict[str, Any] = Field(description="the resolved options of the run")
    files: list[str] = Field(description="the report's files that exist, relative to the run's folder")

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
    options = read_options(paths)
    facts = Facts(rows, read_layers(paths), incidents, info, options, read_arguments(paths), read_quarantine(paths))
    steps, skipped_at_end = tally.steps(rows), tally.skipped_at_end(rows)
    places = rows["epoch"].tail(1).to_list() or [incident.epoch for incident in incidents[-1:]]
    troubled, last = troubles(incidents), max(places, default=0)
    diverged = max((incident.epoch for incident in incidents if incident.kind in DIVERGED), default=0)
    lost = sum(incident.steps_lost for incident in incidents)
    return Summary(
        status=status(info),
        health=health(info, steps, troubled, skipped_at_end),
        headline=headline(info, steps, troubled, skipped_at_end, last, diverged, lost),
        run=info,
        steps=steps,
        grad_norm=tally.grad_norm(rows),
        threshold=tally.threshold(rows),
        amp=tally.amp(rows, info.amp),
        incidents=incidents,
        advice=advise(facts),
        epochs=tally.epochs(rows),
        options=options,
        files=present(paths),
    )
