"""Reads what lies beside the steps: layers, quarantined files, and Ultralytics' own ``args.yaml`` and ``results.csv``.

All of it is optional. What is not there, or cannot be read, is empty.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from yolo_gradsafe.report.records import read_table
from yolo_gradsafe.telemetry.schema import LayerRow, RunPaths, to_json

__all__ = ["read_arguments", "read_layers", "read_quarantine", "read_results"]

_NAMES = {"layer", "stage"}


def read_layers(paths: RunPaths) -> pl.DataFrame:
    """Return one row a layer and epoch, in order; the last where an epoch was recorded twice."""
    columns = [field.name for field in fields(LayerRow)]
    table = _read_csv(paths.layers)
    if set(columns) - set(table.columns):
        return pl.DataFrame(schema={name: pl.String if name in _NAMES else pl.Float64 for name in columns})
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in columns if name not in _NAMES]
    rows = table.select(columns).with_columns(numbers).with_columns(pl.col("epoch").cast(pl.Int64, strict=False))
    rows = rows.filter(pl.col("epoch").is_not_null() & pl.col("layer").is_not_null())
    return rows.unique(["epoch", "layer"], keep="last", maintain_order=True)


def read_quarantine(paths: RunPaths) -> list[str]:
    """Return the files that were quarantined, each once."""
    lines = (line.split("\t")[0].strip() for line in _read(paths.folder / "quarantine.txt").splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def read_arguments(paths: RunPaths) -> dict[str, Any]:
    """Return the arguments of the training, from Ultralytics' ``args.yaml``."""
    try:
        arguments = yaml.safe_load(_read(paths.run / "args.yaml"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return to_json(arguments) if isinstance(arguments, dict) else {}


def read_results(paths: RunPaths) -> pl.DataFrame:
    """Return Ultralytics' ``results.csv``, a row an epoch, everything a number."""
    table = _read_csv(paths.run / "results.csv")
    names = {name: name.strip() for name in table.columns}
    if len(set(names.values())) < len(names):
        return pl.DataFrame()
    table = table.rename(names)
    return table.select(pl.all().str.strip_chars().cast(pl.Float64, strict=False))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_csv(path: Path) -> pl.DataFrame:
    """Return a table of texts; what a crash left of a last line is left out."""
    text = _read(path)
    text = text[: text.rfind("\n") + 1]
    if not text.strip():
        return pl.DataFrame()
    return read_table([line for line in text.split("\n") if line.strip()])
