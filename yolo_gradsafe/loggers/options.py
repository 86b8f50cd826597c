"""The options of ``loggers``."""

from __future__ import annotations

from pydantic import Field

from yolo_gradsafe.section import Section

__all__ = ["LoggersOptions"]


class LoggersOptions(Section):
    """What is sent to the loggers beside the columns of ``results.csv``."""

    steps: bool = Field(
        default=False,
        description="(bool) send gradient norm, threshold, verdicts and stages' norms of the optimizer steps to the "
        "TensorBoard writer, W&B run and MLflow run that are active; off, since the epoch's columns reach them anyway",
    )
    every: int = Field(
        default=10,
        ge=1,
        description="(int) >= 1, optimizer steps that one call to the loggers sums up: medians, the largest norm, "
        "counts; 1 sends every step as it is, and costs a call a step",
    )
