"""The benchmarks run and print their tables; what they measure is not judged here."""

from __future__ import annotations

import pytest

from benchmarks import all as everything
from benchmarks import basin, epoch, harness, memory, probe, snapshots, soak, startup, step, telemetry
from benchmarks.marks import draw_marks
from tests.arm import DETECT


@pytest.fixture(autouse=True)
def _no_warm_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(harness, "WARM_UP", 0)


def tables(printed: str) -> dict[str, list[list[str]]]:
    """Return the cells of the tables that were printed, header and rows, by title."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in printed.splitlines():
        if line.startswith("### "):
            title = line.removeprefix("### ").split(":")[0]
        elif line.startswith("|") and not line.startswith("| ---"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_step(capsys):
    step.main(["--models", DETECT, "--optimizers", "SGD", "--repeats", "1", "--device", "cpu"])
    header, *rows = tables(capsys.readouterr().out)["The optimizer step"]
    assert [row[2] for row in rows] == ["no", "yes"]
    assert all(float(row[header.index("ratio")]) > 0 for row in rows)


def test_telemetry(capsys):
    telemetry.main(["--models", DETECT, "--repeats", "1", "--device", "cpu"])
    _, *rows = tables(capsys.readouterr().out)["A record of every tensor"]
    assert len(rows) == 7
    assert rows[0][3:] == ["1.00", "1.00"], "stock's clip is what the rest is compared to"


def test_memory(capsys):
    memory.main(["--models", DETECT, "--device", "cpu"])
    header, row = tables(capsys.readouterr().out)["Memory on the device"]
    assert float(row[header.index("copies of the statistics")]) <= 2.1
    assert float(row[header.index("% beyond one copy")]) <= 1


@pytest.mark.slow
def test_epoch(capsys):
    epoch.main(["--model", DETECT, "--epochs", "1", "--rounds", "1", "--device", "cpu"])
    _, *rows = tables(capsys.readouterr().out)["Training epochs"]
    assert [row[0] for row in rows] == ["stock", "guarded", "stock again"]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_all_tables_come_last(capsys):
    few = ["--optimizers", "SGD", "--repeats", "1", "--epochs", "1", "--rounds", "1", "--device", "cpu"]
    everything.main(["--models", DETECT, *few])
    printed = capsys.readouterr().out
    assert list(tables(printed)) == [
        "The optimizer step",
        "A record of every tensor",
        "Training epochs",
        "Memory on the device",
    ]
    assert "Ultralytics" not in printed[printed.index("###") :].replace("as Ultralytics sets them", "")


@pytest.mark.slow
def test_snapshots(capsys):
    snapshots.main(["--models", DETECT, "--epochs", "2", "--device", "cpu"])
    header, row = tables(capsys.readouterr().out)["Snapshots"]
    assert int(row[header.index("snapshots")]) >= 2
    assert int(row[header.index("bytes of one")].replace(",", "")) > 30_000_000


@pytest.mark.slow
def test_startup(capsys):
    startup.main(["--repeats", "1"])
    _, *rows = tables(capsys.readouterr().out)["Start-up"]
    assert [row[0] for row in rows] == [f"`{name}`" for name in (*startup.IMPORTS, *startup.COMMANDS)]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_soak(capsys):
    soak.main(["--steps", "300", "--rate", "0.03", "--share", "10"])
    printed = tables(capsys.readouterr().out)
    assert len(printed["Soak"]) == 1 + soak.TENTHS
    assert {row[1] for row in printed["Soak, checked"][1:]} == {"yes"}
    faults = next(row for row in printed["Soak, checked"] if row[0] == "faults without an incident")
    assert faults[2].startswith("0 of ")
    assert faults[2] != "0 of 0"


# The basin ------------------------------------------------------------------------------------------------------------


def cells(*, guarded: bool, **accuracies: float) -> list[basin.Result]:
    """Return results of one setting: a rate's accuracies, one a seed, under ``r`` and the rate without its point."""
    found = []
    for name, values in accuracies.items():
        rate = float(name[1] + "." + name[2:])
        for seed, accuracy in enumerate(values):
            found.append(basin.Result(basin.Cell("yolo26n", "AdamW", rate, seed, guarded=guarded), accuracy))
    return found


def test_the_basin_says_where_guarded_is_below_stock_and_what_is_kept_of_the_best_rate():
    stock = cells(guarded=False, r0003=[0.8, 0.9], r0030=[0.4, 0.5], r0100=[0.6, 0.6])
    guarded = cells(guarded=True, r0003=[0.8, 0.9], r0030=[0.9, 0.9], r0100=[0.1, 0.2])
    said = basin.tables([*stock, *guarded])
    assert "| yolo26n | AdamW | shapes | plain | guarded | 0.85 | 0.90 | 0.15 |" in said
    assert "| stock | 0.80* |" in basin.tables(stock[:1]), "a single seed"
    assert "stock 0.75, guarded 0.75" in said
    assert "(at least 0.02): yolo26n AdamW shapes plain at 0.1." in said


def test_the_basin_keeps_what_is_done_and_draws_it(tmp_path):
    kept = tmp_path / "cells.jsonl"
    results = cells(guarded=False, r0003=[0.8], r0030=[0.4]) + cells(guarded=True, r0003=[0.8], r0030=[0.9])
    for result in results:
        basin._keep(result, kept)
    assert basin.load(kept) == results
    basin.draw(results, tmp_path / "basin.png")
    assert (tmp_path / "basin.png").stat().st_size > 5000


def test_the_second_drawn_set_is_drawn_once_and_has_its_labels(tmp_path):
    data = draw_marks(tmp_path / "marks", train=3, val=2, size=64)
    labels = sorted((tmp_path / "marks" / "labels").rglob("*.txt"))
    assert len(labels) == 5
    rows = [list(map(float, row.split())) for path in labels for row in path.read_text().splitlines()]
    assert len(rows) >= 5
    assert all(0 <= value <= 1 for row in rows for value in row[1:])
    before = data.stat().st_mtime_ns
    assert draw_marks(tmp_path / "marks").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("accuracy", "edge"),
    [
        ({0.003: 0.8, 0.01: 0.67, 0.03: 0.46, 0.1: 0.36}, (0.01 * 0.03) ** 0.5),
        ({0.003: 0.0, 0.01: 0.1, 0.03: 0.7, 0.1: 0.68}, None),  # low rates learn slowly; no high one breaks
        ({0.01: 0.9, 1.0: 0.0}, 0.1),
    ],
)
def test_the_measured_edge_is_where_a_fifth_of_the_accuracy_is_lost(accuracy, edge):
    found = probe.measured_edge(accuracy)
    assert found == (None if edge is None else pytest.approx(edge))


def test_trainings_that_are_known_are_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(basin, "run_cell", lambda *_: pytest.fail("it was run"))
    (stock,) = cells(guarded=False, r0010=[0.7])
    basin._keep(stock, tmp_path / "cells.jsonl")
    trainings = probe.Trainings(tmp_path / "cells.jsonl", tmp_path, "cpu")
    assert trainings.accuracies([stock.cell]) == [stock.accuracy]
