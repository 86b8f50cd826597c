"""The accuracy of a run over its optimizer steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from yolo_gradsafe.report.summary import Summary

__all__ = ["accuracy_by_step"]

Array = npt.NDArray[np.float64]


def accuracy_by_step(rows: pl.DataFrame, summary: Summary) -> tuple[Array, Array, Array]:
    """Return the last step of each validated epoch, and accuracy and fitness there; nan where one is not known."""
    ends = dict(rows.group_by("epoch").agg(pl.col("step").max()).iter_rows())
    found = [(ends[epoch.epoch], epoch.accuracy, epoch.fitness) for epoch in summary.epochs if epoch.epoch in ends]
    table = np.array([row for row in found if row[1:] != (None, None)], dtype=np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
