"""``gradsafe drill``: faults on purpose, stock against guarded."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yolo_gradsafe.cli.app import FAILED, KEY_VALUE, app, explained, pairs
from yolo_gradsafe.config_errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yolo_gradsafe.drill.case import Case, Recipe
    from yolo_gradsafe.drill.scenario import Scenario
    from yolo_gradsafe.drill.table import Row


@app.command(
    context_settings=KEY_VALUE,
    help="Inject faults into short trainings, without and with the guard, and print what happens.\n\nTakes names of "
    "faults (--list shows all) and Ultralytics' training arguments as key=value. Without a name it runs a small set of "
    "faults in a few minutes. Trains on drawn images unless --data names a data set.\n\nExample: gradsafe drill "
    "nan-pixel nan-weight --precision fp32 --precision bf16",
)
def drill(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="FAULT|KEY=VALUE", show_default=False)] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the faults and exit.")] = False,
    task: Annotated[list[str] | None, typer.Option(help="detect or pose; may be repeated; default: detect.")] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, bf16, fp16 or scaler (fp32 with a GradScaler); default: fp32.")
    ] = None,
    optimizer: Annotated[list[str] | None, typer.Option(help="SGD, AdamW or MuSGD; default: AdamW.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Six steps per training; checks only that all values stay finite.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Every fault, task, precision and optimizer: hours.")] = False,
    few: Annotated[
        bool,
        typer.Option("--few", help="For each fault, only enough cases to cover every task, precision and optimizer."),
    ] = False,
    model: Annotated[str, typer.Option(help="Model to train instead of the small one.")] = "",
    data: Annotated[str, typer.Option(help="Data set to use instead of drawn images.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the trainings and the result.")] = Path("runs/gradsafe-drill"),
    jobs: Annotated[int, typer.Option(min=1, help="Number of trainings at the same time, one thread each.")] = 1,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of trainings without a fault, to measure the spread of the accuracy.")
    ] = 3,
    stock: Annotated[bool, typer.Option(help="Also train plain Ultralytics with the fault.")] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Reuse the finished trainings in the folder.")] = False,
) -> None:
    """Inject faults into short trainings, without and with the guard."""
    from yolo_gradsafe.drill import catalogue
    from yolo_gradsafe.drill.scenario import OPTIMIZERS, PRECISIONS, TASKS

    if list_:
        _list(catalogue.SCENARIOS.values())
        return
    words = [*(names or []), *context.args]
    with explained(ConfigError, LookupError, SyntaxError, TypeError, ValueError):
        asked = [word for word in words if "=" not in word]
        everything = catalogue.QUICK_SET if quick else catalogue.SCENARIOS if full else catalogue.SMALL_SET
        scenarios = [catalogue.find(name) for name in asked or everything]
        recipe = _recipe(words, quick, model, data)
        tasks = _chosen("task", task, TASKS, TASKS if full else [_task(model)])
        precisions = _chosen("precision", precision, PRECISIONS, PRECISIONS if full else PRECISIONS[:1])
        optimizers = _chosen("optimizer", optimizer, OPTIMIZERS, OPTIMIZERS if full else ["AdamW"])
        cases = _cases(scenarios, tasks, precisions, optimizers, bool(asked))
    from yolo_gradsafe.drill.matrix import cover
    from yolo_gradsafe.drill.run import run_cases

    cases = list(cover(cases)) if few else cases
    rows = run_cases(cases, recipe, out, seeds, jobs, resume=resume, stock=stock, say=typer.echo)
    typer.echo("\n" + _save(rows, recipe, out))
    if not all(row.judgement.passed for row in rows):
        raise typer.Exit(FAILED)


def _list(scenarios: Iterable[Scenario]) -> None:
    """Print the scenarios with their places and descriptions, as wide as the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fault", no_wrap=True)
    table.add_column("place", no_wrap=True)
    table.add_column("what it is")
    for scenario in scenarios:
        table.add_row(scenario.name, scenario.place, scenario.description)
    Console(markup=False, highlight=False).print(table)


def _chosen(option: str, given: list[str] | None, allowed: Any, default: Any) -> list[str]:
    for value in given or ():
        if value not in allowed:
            raise ConfigError(
                f"--{option}: unknown '{value}'. Allowed: {', '.join(allowed)}." + nearest(value, list(allowed))
            )
    return list(given or default)


def _recipe(words: list[str], quick: bool, model: str, data: str) -> Recipe:
    from dataclasses import replace

    import torch

    from yolo_gradsafe import adapter
    from yolo_gradsafe.drill.case import FULL, QUICK

    arguments = adapter.parse_arguments([f"{key}={value}" for key, value in pairs(words)])
    if own := sorted({"model", "data", "optimizer", "amp", "seed", "project", "name"} & set(arguments)):
        raise ConfigError(f"'{own[0]}=' is set by the drill; use --model, --data, --optimizer, --precision, --out")
    arguments.setdefault("device", "0" if torch.cuda.is_available() else "cpu")
    return replace(QUICK if quick else FULL, model=model, data=data, arguments=arguments)


def _task(model: str) -> str:
    return "pose" if "pose" in Path(model).stem else "detect"


def _cases(scenarios: Any, tasks: Any, precisions: Any, optimizers: Any, named: bool) -> list[Case]:
    """Return the cases; a fault that was named and that fits none of the choices gets those that it is for."""
    from yolo_gradsafe.drill.matrix import matrix

    cases = []
    for scenario in scenarios:
        found = list(matrix([scenario], tasks, precisions, optimizers))
        if not found and named:
            own = (scenario.tasks or tasks, scenario.precisions or precisions, scenario.optimizers or optimizers)
            found = list(matrix([scenario], *own))
        cases += found
    return cases


def _save(rows: list[Row], recipe: Recipe, out: Path) -> str:
    """Write ``drill.md`` and ``drill.json``, and return the table."""
    from yolo_gradsafe import adapter
    from yolo_gradsafe.drill.table import table

    text = table(rows)
    values = {"versions": adapter.versions(), "recipe": asdict(recipe), "rows": [asdict(row) for row in rows]}
    out.mkdir(parents=True, exist_ok=True)
    (out / "drill.md").write_text(text + "\n", encoding="utf-8")
    (out / "drill.json").write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return f"{text}\n{out / 'drill.md'}, {out / 'drill.json'}"
