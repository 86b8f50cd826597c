"""``gradsafe report``: a run's report, from its records; of a run without a guard, its post-mortem."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolo_gradsafe.cli.app import FAILED, WRONG, app, explained
from yolo_gradsafe.cli.postmortem import post_mortem

if TYPE_CHECKING:
    from yolo_gradsafe.report.postmortem import Postmortem
    from yolo_gradsafe.report.summary import Summary

    Judged = Summary | Postmortem

SURVIVED = 3
"""Exit code of ``--fail-on survived`` for a run that needed a remedy."""
UNLEARNED = 4
"""Exit code of ``--fail-on unlearned`` for a run whose model did not learn."""


class Format(str, Enum):
    """What the report can be made as."""

    html = "html"
    json = "json"
    md = "md"
    png = "png"


class FailOn(str, Enum):
    """The best verdict that is not good enough."""

    survived = "survived"
    unlearned = "unlearned"
    failed = "failed"


@app.command(
    help="Rebuild the report of a finished, crashed or running training from its records, and print it.\n\n"
    "Of a training without a guard: what results.csv, args.yaml and the checkpoints say, in postmortem.html and .json. "
    "The checkpoints are read without running any code in them.\n\n"
    "Exit codes: 0, or 2 for wrong arguments and where there are no records. With --fail-on failed: "
    f"{FAILED} the run failed or did not finish, else 0. With --fail-on unlearned: {UNLEARNED} as well, the model did "
    f"not learn (where that is unknown the run passes). With --fail-on survived: {SURVIVED} as well, the run survived "
    f"incidents. --strict is --fail-on survived, and {UNLEARNED} also where it is not known that the model learned.\n\n"
    "Example: gradsafe report runs/detect/train --no-plot --fail-on failed"
)
def report(
    run: Annotated[Path | None, typer.Argument(help="The run's folder, e.g. runs/detect/train.")] = None,
    plot: Annotated[bool, typer.Option(help="Draw stability.png and write stability.html as well.")] = True,
    format: Annotated[
        Format | None,
        typer.Option(help="Make only this format. html and png are written to a file; json and md are printed."),
    ] = None,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="End with an exit code for this verdict and worse ones.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Pass only a healthy run whose model is known to have learned.")
    ] = False,
    open: Annotated[bool, typer.Option("--open", help="Show stability.html (or the png) in a browser.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of stability.json and exit.")] = False,
) -> None:
    """Rebuild the report of a finished, crashed or running training from its records, and print it."""
    from yolo_gradsafe.report.parts import ReportError
    from yolo_gradsafe.report.records import is_guarded
    from yolo_gradsafe.report.summary import Summary

    if schema:
        typer.echo(json.dumps(Summary.json_schema(), indent=2))
        return
    if run is None:
        typer.echo("error: the folder of the run is missing, e.g. gradsafe report runs/detect/train", err=True)
        raise typer.Exit(WRONG)
    judged: Judged
    with explained(ReportError, OSError):
        if is_guarded(run):
            judged, path = _print_all(run, plot) if format is None else _make(run, format)
        else:
            judged, path = post_mortem(run, plot, None if format is None else format.value)
    if open and path is None:
        typer.echo("error: --open works with --format html or png only", err=True)
        raise typer.Exit(WRONG)
    if open and path:
        typer.launch(path.absolute().as_uri())
    if strict:
        _judge(judged, FailOn.survived, "--strict", unknown_passes=False)
    elif fail_on:
        _judge(judged, fail_on, f"--fail-on {fail_on.value}")


def _judge(summary: Judged, fail_on: FailOn, option: str, unknown_passes: bool = True) -> None:
    """End with the exit code of a run that is not good enough, and say why on stderr."""
    unlearned = summary.learned == "no" or (summary.learned == "unknown" and not unknown_passes)
    if summary.status == "unfinished":
        code, verdict = FAILED, "did not finish"
    elif summary.health == "failed":
        code, verdict = FAILED, "failed"
    elif unlearned and fail_on is not FailOn.failed:
        code, verdict = UNLEARNED, "did not learn" if summary.learned == "no" else "is not known to have learned"
    elif summary.health == "survived" and fail_on is FailOn.survived:
        code, verdict = SURVIVED, "survived incidents"
    else:
        return
    typer.echo(f"{option}: the run {verdict}. {summary.headline}", err=True)
    raise typer.Exit(code)


def _print_all(run: Path, plot: bool) -> tuple[Summary, Path | None]:
    from yolo_gradsafe.cli.progress import working
    from yolo_gradsafe.report import build
    from yolo_gradsafe.report.console import table
    from yolo_gradsafe.report.records import locate, page_path

    with working() as tell:
        summary = build(run, plot=plot, tell=tell)
    typer.echo(table(summary))
    path = page_path(locate(run))
    if not path.is_file():
        return summary, None
    typer.echo(f"  {'page':<15} {path.absolute()}")
    return summary, path


def _make(run: Path, format: Format) -> tuple[Summary, Path | None]:
    from yolo_gradsafe.cli.progress import working
    from yolo_gradsafe.report.summarize import summarize

    with working() as tell:
        tell("reading the records")
        summary = summarize(run)
        if format is Format.html:
            from yolo_gradsafe.report.page import write_page

            tell("writing stability.html")
            path = write_page(run, summary)
        elif format is Format.png:
            from yolo_gradsafe.report.plot import draw

            tell("drawing stability.png")
            path = draw(run, summary)
        else:
            path = None
    if path:
        typer.echo(path)
    elif format is Format.md:
        from yolo_gradsafe.report.markdown import markdown

        typer.echo(markdown(summary), nl=False)
    else:
        typer.echo(json.dumps(summary.model_dump(mode="json"), indent=2, allow_nan=False))
    return summary, path
