"""``stability.html``: the report as one self-contained file that opens offline, without a network request."""

from __future__ import annotations

from pathlib import Path

from yolo_gradsafe.report.beside import read_layers
from yolo_gradsafe.report.console import damaged_records, learned
from yolo_gradsafe.report.figures import about, course, environment, figures, flat
from yolo_gradsafe.report.page.cards import cards
from yolo_gradsafe.report.page.curves import curves, epoch_starts
from yolo_gradsafe.report.page.heatmap import heatmap
from yolo_gradsafe.report.page.manual import manual
from yolo_gradsafe.report.page.template import render
from yolo_gradsafe.report.records import locate, page_path, read_steps
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["write_page"]


def write_page(run: Path, summary: Summary) -> Path:
    """Write the page of a run.

    Args:
        run: The run's folder, its ``stability/`` folder, or a file in either.
        summary: The run's summary.

    Returns:
        The file that was written: ``stability.html`` in the run's folder.

    Raises:
        OSError: A record cannot be read, or the page cannot be written.
        ReportError: There are no records.
    """
    paths = locate(Path(run))
    rows = read_steps(paths)
    heat = heatmap(read_layers(paths))
    charts = {"panels": curves(rows, summary), "epochs": epoch_starts(rows), "heat": heat}
    explained = figures(summary)
    text = render(
        "report.html.j2",
        summary=summary,
        name=paths.run.absolute().name,
        about=about(summary.run),
        figures=explained,
        manual=manual(figure.page for figure in explained),
        learned=learned(summary),
        course=course(summary),
        damaged=damaged_records(summary),
        cards=cards(summary.incidents, paths.run.absolute(), summary.outcomes),
        options=flat(summary.options),
        environment=environment(summary.run),
        charts=charts,
    )
    write_atomically(page_path(paths), text)
    return page_path(paths)
