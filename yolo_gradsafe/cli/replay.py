"""``gradsafe replay``: a bad batch once more, outside training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from yolo_gradsafe.cli.app import app, explained


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="The run's folder, e.g. runs/detect/train.")],
    incident: Annotated[
        int, typer.Option(help="Number of the incident: a line of stability/incidents.jsonl, from 1; -1 is the last.")
    ] = -1,
    model: Annotated[str | None, typer.Option(help="Weights or model YAML to use instead of weights/last.pt.")] = None,
    device: Annotated[str, typer.Option(help="Device to run on.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run the saved batch of an incident through the model again, and show what is wrong with it.

    Batches are kept under forensics.archive=true. Checkpoints hold averaged weights in half precision: a fault of the
    data or of the precision shows again, one of the weights of that moment may not.
    """
    from yolo_gradsafe.forensics.kept_batches import archive_of
    from yolo_gradsafe.forensics.rerun import layer_table, rerun
    from yolo_gradsafe.report.records import locate, read_incidents
    from yolo_gradsafe.telemetry.schema import to_json

    with explained(ValueError, FileNotFoundError):
        paths = locate(run)
        incidents = read_incidents(paths)
        number = incident if incident > 0 else len(incidents) + 1 + incident
        if not 0 < number <= len(incidents):
            raise ValueError(f"there is no incident {incident}: {paths.incidents} has {len(incidents)}")
        known = incidents[number - 1]
        archive = archive_of(paths.run, known.epoch, known.batch)
        if not archive.is_file():
            raise FileNotFoundError(
                f"the batch of incident {number} (epoch {known.epoch}, batch {known.batch}) was not kept: no {archive}"
            )
        last = paths.run / "weights" / "last.pt"
        if model is None and not last.is_file():
            raise FileNotFoundError(f"the run has no {last}; name other weights with --model")
        weights = model or str(last)
        done = rerun(archive, weights, device)
    if as_json:
        layers = [{"layer": s.name, "kind": s.kind, "peak": s.peak, "finite": s.finite} for s in done.layers]
        found = {"failed": done.failed, "total": done.outcome.total, "items": done.outcome.items, "layers": layers}
        typer.echo(json.dumps(to_json({"incident": number, **found, "culprit": done.culprit.record()}), indent=2))
        return
    items = ", ".join(f"{name} {value:.4g}" for name, value in done.outcome.items.items())
    typer.echo(f"incident {number}: epoch {known.epoch}, batch {known.batch}: {known.message}")
    typer.echo(f"then: {done.recorded.sentence()}")
    typer.echo(f"now:  {done.culprit.sentence()}")
    typer.echo(f"loss {done.outcome.total:.6g} in {done.recorded.precision} ({items}), with {weights}")
    for note in done.culprit.notes:
        typer.echo(f"note: {note}")
    typer.echo("\n" + layer_table(done.layers))
