"""The report of a run: a summary for programs and a picture for the eye, made from the run's records alone.

Nothing here needs the trainer, PyTorch or Ultralytics; a report can be made anywhere, of any run, at any time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolo_gradsafe.report.summary import Summary

__all__ = ["build"]


def build(run: Path, plot: bool = True) -> Summary:
    """Write ``stability.json`` and ``stability.png`` of a run, anew if they exist.

    Args:
        run: The run's folder, its ``stability/`` folder, or a file in either.
        plot: Draw the picture as well.

    Returns:
        The summary, as it was written.

    Raises:
        OSError: A record cannot be read, or the report cannot be written.
        ReportError: There are no records.
    """
    from yolo_gradsafe.report.records import locate, present
    from yolo_gradsafe.report.summary import summarize

    paths = locate(Path(run))
    summary = summarize(paths.run)
    summary.save(paths.summary)  # before the picture is drawn: the numbers must not depend on it
    if plot:
        from yolo_gradsafe.report.plot import draw

        draw(paths.run, summary)
    summary = summary.model_copy(update={"files": present(paths)})
    summary.save(paths.summary)
    return summary
