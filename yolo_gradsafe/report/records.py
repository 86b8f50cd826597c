"""Reads the records of a run, whatever state a crash left them in: half a line at the end costs that line only."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import ValidationError

from yolo_gradsafe.report.parts import IncidentEntry, ReportError, Run
from yolo_gradsafe.telemetry.schema import SCHEMA_VERSION, RunPaths, StepRow, Verdict, to_json

__all__ = [
    "STAGE",
    "is_guarded",
    "locate",
    "loss_items",
    "page_path",
    "present",
    "read_incidents",
    "read_options",
    "read_run",
    "read_steps",
    "read_table",
    "stage_columns",
    "yaml_path",
]

STAGE = "norm/"
"""What the columns of the stages' norms start with."""
_LATER = {"lr_factor": "1", "update_ratio": "nan"}
"""Columns that records of earlier versions lack, and what they would have said."""


def locate(path: Path) -> RunPaths:
    """Find the run that a path belongs to.

    Args:
        path: The run's folder, its ``stability/`` folder, or a file in either.

    Raises:
        ReportError: There are neither steps nor a ``run.json``.
    """
    places = _places(path)
    for paths in places:
        if _recorded(paths):
            return paths
    paths = places[-1]
    missing = f"neither {paths.steps.relative_to(paths.run)} nor {paths.info.relative_to(paths.run)}"
    raise ReportError(f"no gradsafe records in {paths.run}: {missing}. Was it trained with GradSafe?")


def _places(path: Path) -> list[RunPaths]:
    """Return the runs that a path may belong to: its folder, and the one above ``stability/`` and ``weights/``."""
    folder = path.parent if path.is_file() else path
    inside = folder.absolute().name in (RunPaths(folder).folder.name, "weights")
    return [RunPaths(folder), *([RunPaths(folder.absolute().parent)] if inside else [])]


def is_guarded(path: Path) -> bool:
    """Whether ``locate`` finds the records of a guard where a path leads."""
    return any(_recorded(paths) for paths in _places(path))


def page_path(paths: RunPaths) -> Path:
    """Return where the summary for a browser lies."""
    return paths.run / "stability.html"


def yaml_path(paths: RunPaths) -> Path:
    """Return where the summary lies a second time, for loggers that upload YAML and no JSON, as MLflow's does."""
    return paths.run / "stability.yaml"


def present(paths: RunPaths) -> list[str]:
    """Return the report's files that exist, relative to the run's folder, those for people and programs first."""
    summaries = (page_path(paths), paths.plot, paths.summary, yaml_path(paths))
    files = (*summaries, paths.steps, paths.layers, paths.incidents, paths.info, paths.options)
    return [file.relative_to(paths.run).as_posix() for file in files if file.is_file()]


def read_steps(paths: RunPaths) -> pl.DataFrame:
    """Return the recorded steps in order, with what the report calls them.

    Besides the columns of ``steps.csv`` there are the booleans ``overflow`` (GradScaler skipped the step), ``skipped``
    (GradSafe did), ``applied`` (neither) and ``clipped`` (applied, made smaller).
    """
    text = paths.steps.read_text(encoding="utf-8", errors="replace") if paths.steps.is_file() else ""
    # Only what ends in a line break was written whole; a quote left open must not swallow the lines after it.
    lines = [line for line in text.split("\n")[:-1] if line.count('"') % 2 == 0]
    columns = StepRow.fixed_columns()
    cells = read_table(lines or [",".join(columns)])
    if any(name not in (*cells.columns, *_LATER) for name in columns) or not _in_order(cells):
        cells = read_table([",".join(columns)])  # the header is damaged: what the columns mean is not known
    cells = cells.with_columns(pl.lit(value).alias(name) for name, value in _LATER.items() if name not in cells.columns)
    integers = [pl.col(name).cast(pl.Int64, strict=False) for name in ("epoch", "step", "batch")]
    norms = ["grad_norm", *stage_columns(cells), "threshold", "clip_scale", "amp_scale", "update_ratio"]
    floats = ["lr", "lr_factor", "loss", *loss_items(cells), *norms]
    steps = cells.with_columns(*integers, *(pl.col(name).cast(pl.Float64, strict=False) for name in floats))
    whole = pl.col("verdict").is_in([str(word) for word in Verdict]) & pl.col("clip_scale").is_not_null()
    steps = steps.filter(whole & pl.col("epoch").is_not_null() & pl.col("step").is_not_null())
    overflow = pl.col("verdict") == Verdict.AMP_OVERFLOW.value
    skipped = (pl.col("clip_scale") == 0) & ~overflow
    applied = ~overflow & ~skipped
    clipped = applied & ((pl.col("clip_scale") < 1) | (pl.col("verdict") == Verdict.CLIPPED.value))
    return steps.with_columns(overflow=overflow, skipped=skipped, applied=applied, clipped=clipped)


def _in_order(cells: pl.DataFrame) -> bool:
    """Return whether the loss items are where they belong."""
    return cells.columns.index("loss") < cells.columns.index("grad_norm")


def read_table(lines: list[str]) -> pl.DataFrame:
    """Return a CSV table of texts; a line that makes no sense costs itself alone.

    Args:
        lines: The header, and the rows, each a line.
    """
    try:
        source = io.BytesIO("\n".join(lines).encode())
        return pl.read_csv(source, infer_schema_length=0, truncate_ragged_lines=True)
    except pl.exceptions.PolarsError:
        return _read_line_by_line(lines)


def _read_line_by_line(lines: list[str]) -> pl.DataFrame:
    """Do so slowly: polars gives up a whole table for a quote in the wrong place."""
    names, *rows = ([cell for line in csv.reader([text]) for cell in line] for text in lines)
    schema = dict.fromkeys(names, pl.String)
    if len(schema) < len(names):
        return pl.DataFrame()
    padded = [[*row, *[None] * (len(names) - len(row))] for row in rows if 0 < len(row) <= len(names)]
    return pl.DataFrame(padded, schema=schema, orient="row")


def damaged_steps(paths: RunPaths, steps: pl.DataFrame) -> int:
    """Return how many whole lines of ``steps.csv`` are not among the steps that could be read."""
    try:
        lines = paths.steps.read_bytes().count(b"\n") - 1
    except OSError:
        return 0
    return max(0, lines - steps.height)


def loss_items(steps: pl.DataFrame) -> list[str]:
    """Return the names of the loss items, which are the task's own: the columns from ``loss`` to ``grad_norm``."""
    return steps.columns[steps.columns.index("loss") + 1 : steps.columns.index("grad_norm")]


def stage_columns(steps: pl.DataFrame) -> list[str]:
    """Return the columns that hold the norms of the model's stages."""
    return [name for name in steps.columns if name.startswith(STAGE)]


def read_incidents(paths: RunPaths) -> list[IncidentEntry]:
    """Return the incidents in the order in which they were recorded."""
    text = paths.incidents.read_text(encoding="utf-8", errors="replace") if paths.incidents.is_file() else ""
    incidents = []
    for line in text.splitlines():
        try:
            incidents.append(IncidentEntry.model_validate_json(_text(line)))
        except (ValueError, RecursionError):  # half a line: the run was killed while it wrote
            continue
    return incidents


def read_run(paths: RunPaths) -> Run:
    """Return what was trained; blank where the run did not get to say it.

    Raises:
        ReportError: A later version recorded the run; what it wrote may mean something else.
    """
    try:
        values = json.loads(_text(paths.info.read_text(encoding="utf-8", errors="replace")))
    except (FileNotFoundError, ValueError, RecursionError):
        return Run()
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ReportError(
            f"{paths.run} was recorded by a newer gradsafe (records of version {version}, this one reads up to "
            f"{SCHEMA_VERSION}). Update it: pip install -U yolo-gradsafe"
        )
    try:
        return Run.model_validate(values)
    except ValidationError:
        return Run()


def read_options(paths: RunPaths) -> dict[str, Any]:
    """Return the run's resolved options; empty where there are none."""
    try:
        options = yaml.safe_load(paths.options.read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return to_json(options) if isinstance(options, dict) else {}


def _recorded(paths: RunPaths) -> bool:
    return paths.steps.is_file() or paths.info.is_file()


def _text(record: str) -> bytes:
    """Return a JSON text whose strings are valid Unicode: a file name need not be, and costs a ``?`` then."""
    return json.dumps(json.loads(record), ensure_ascii=False).encode("utf-8", "replace")
