"""The report of a run: a summary for programs, a picture and a page for the eye, made from the run's records alone.

Nothing here needs the trainer, PyTorch or Ultralytics; a report can be made anywhere, of any run, at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolo_gradsafe.report.summary import Summary

__all__ = ["build"]


def build(run: Path, plot: bool = True, tell: Callable[[str], None] = lambda step: None) -> Summary:
    """Write ``stability.json``, ``.yaml``, ``.png`` and ``.html`` of a run, anew if they exist.

    A picture or a page that cannot be made is logged; the numbers do not depend on it.

    Args:
        run: The run's folder, its ``stability/`` folder, or a file in either.
        plot: Draw the picture and write the page as well.
        tell: Called with what is about to be done, in a few words.

    Returns:
        The summary, as it was written.

    Raises:
        OSError: A record cannot be read, or the summary cannot be written.
        ReportError: There are no records, or a newer version wrote them.
    """
    from yolo_gradsafe.report.records import locate, present, yaml_path
    from yolo_gradsafe.report.summarize import summarize

    tell("reading the records")
    paths = locate(Path(run))
    summary = summarize(paths.run)
    summary.save(paths.summary)
    if plot:
        tell("drawing stability.png")
        _try(_draw, paths.run, summary)
        tell("writing stability.html")
        _try(_write_page, paths.run, summary)
    summary.save(yaml_path(paths))  # so that it is among the files
    summary = summary.model_copy(update={"files": present(paths)})
    summary.save(paths.summary)
    summary.save(yaml_path(paths))
    return summary


def _draw(run: Path, summary: Summary) -> object:
    from yolo_gradsafe.report.plot import draw

    return draw(run, summary)


def _write_page(run: Path, summary: Summary) -> object:
    from yolo_gradsafe.report.page import write_page

    return write_page(run, summary)


def _try(make: Callable[[Path, Summary], object], run: Path, summary: Summary) -> None:
    try:
        make(run, summary)
    except Exception:
        logging.getLogger(__name__).warning("a part of the report of %s could not be made", run, exc_info=True)
