"""The post-mortem of a training without a guard: each thing that can be wrong on record is found, and nothing else."""

from __future__ import annotations

import json
import os
import shlex
from math import inf, nan
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.report.stock import checkpoint, healthy, model, set_in, write
from yolo_gradsafe.adapter.arguments import default_arguments, parse_arguments
from yolo_gradsafe.checkpoint import read_checkpoint
from yolo_gradsafe.cli import app
from yolo_gradsafe.report.postmortem import CHECKPOINTS, Postmortem, examine, read_facts

DAY = 86400


def look(run: Path) -> Postmortem:
    if (run / "results.csv").is_file():
        old = (run / "results.csv").stat().st_mtime - DAY
        os.utime(run / "results.csv", (old, old))
    files = [run / name for name in CHECKPOINTS if (run / name).is_file()]
    return examine(read_facts(run, [read_checkpoint(file, run) for file in files]), default_arguments())


def kinds(found: Postmortem, *severities: str) -> dict[str, str]:
    return {f.kind: f.severity for f in found.findings if not severities or f.severity in severities}


def rows(count: int = 20, of: int = 20) -> list[dict[str, float]]:
    return [healthy(epoch, of) for epoch in range(1, count + 1)]


# Healthy --------------------------------------------------------------------------------------------------------------


def test_of_a_healthy_run_nothing_wrong_is_on_record(tmp_path):
    found = look(write(tmp_path / "run"))
    assert (found.status, found.health, found.learned) == ("finished", "healthy", "yes")
    assert found.headline == "Nothing wrong is on record: 20 epochs, metrics/mAP50-95(B) 0.4 in epoch 20."
    assert (found.findings, found.advice) == ([], [])


@pytest.mark.parametrize(("changes", "arguments"), [
    ({}, {"epochs": 30}),  # early stopping
    ({"metrics__mAP50-95(B)": 0.0, "val": 0.0}, {"val": False}),  # never validated: stock writes zeros
    ({"val__dfl_loss": 0.0, "train__dfl_loss": 0.0}, {}),  # a model without that term
    ({"val__cls_loss": 2490.0}, {}),  # one epoch of a young model, but not the last
])  # fmt: skip
def test_what_is_no_fault(tmp_path, changes, arguments):
    epochs = [5] if changes.get("val__cls_loss") else range(1, 21)
    found = look(write(tmp_path / "run", set_in(rows(), epochs, **changes), **arguments))
    assert found.health == "healthy"
    assert kinds(found) == {}


def test_few_epochs_without_accuracy_are_too_few_to_tell(tmp_path):
    few = set_in(rows(3), range(1, 4), **{"metrics__mAP50-95(B)": 0.0})
    found = look(write(tmp_path / "run", few, epochs=3))
    assert (found.health, found.learned) == ("healthy", "unknown")
    assert kinds(found) == {"never_rose": "note", "warming": "note"}
    assert "too few to say whether the model learns" in found.headline
    assert found.advice == []


# Losses and accuracy --------------------------------------------------------------------------------------------------

FAULTS = {
    "train nan to the end": (range(8, 21), {"train": nan}, "loss_nan", "error"),
    "train inf once": ([8], {"train__box_loss": inf}, "loss_nan", "warning"),
    "validation nan to the end": (range(8, 21), {"val": nan}, "validation_nan", "error"),
    "validation nan once": ([8], {"val__cls_loss": nan}, "validation_nan", "warning"),
    "validation 0 to the end": (range(8, 21), {"val": 0.0}, "validation_zero", "error"),
    "train 0 once": ([8], {"train": 0.0}, "loss_zero", "warning"),
    "validation absurd": (range(8, 21), {"val__cls_loss": 6.9e6}, "validation_absurd", "error"),
    "validation absurd for three epochs": ([8, 9, 10], {"val__cls_loss": 6.9e6}, "validation_absurd", "warning"),
    "ran away": (range(8, 21), {"train": 9.0}, "loss_rose", "error"),
    "ran away and came back": (range(8, 11), {"train": 9.0}, "loss_rose", "warning"),
    "collapsed": (range(15, 21), {"metrics__mAP50-95(B)": 0.0}, "collapsed", "error"),
    "fell": (range(15, 21), {"metrics__mAP50-95(B)": 0.1}, "fell", "warning"),
    "fell to 0 and came back": ([12, 13], {"metrics__mAP50-95(B)": 0.0}, "dipped", "warning"),
    "never rose": (range(1, 21), {"metrics__mAP50-95(B)": 0.001}, "never_rose", "warning"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_with_its_epochs_and_nothing_else_is(tmp_path, name):
    epochs, changes, kind, severity = FAULTS[name]
    found = look(write(tmp_path / "run", set_in(rows(), epochs, **changes)))
    assert kinds(found, "error", "warning") == {kind: severity}
    assert found.health == {"error": "failed", "warning": "survived"}[severity]
    [finding] = [f for f in found.findings if f.kind == kind]
    if kind not in ("never_rose", "loss_rose"):
        assert finding.epochs == list(epochs)
    assert finding.title in found.headline
    assert found.advice[-1].rule == "train_guarded"


@pytest.mark.parametrize(("name", "learned"), [
    ("collapsed", "no"), ("never rose", "no"), ("fell", "yes"), ("train inf once", "yes"),
])  # fmt: skip
def test_whether_it_learned(tmp_path, name, learned):
    epochs, changes, *_ = FAULTS[name]
    assert look(write(tmp_path / "run", set_in(rows(), epochs, **changes))).learned == learned


# Checkpoints ----------------------------------------------------------------------------------------------------------


def test_tensors_that_stock_filled_or_clamped_are_named(tmp_path):
    def spoil(net):
        net[0].weight.zero_()
        net[1].running_var[2] = 65504.0

    found = look(write(tmp_path / "run", last=checkpoint(model(spoil))))
    [finding] = [f for f in found.findings if f.kind == "damaged_last"]
    assert "0.weight" in finding.evidence
    assert "1.running_var (1 of 4)" in finding.evidence
    assert [one.state for one in found.checkpoints] == ["damaged", "sound"]
    assert found.advice[0].title == "Use best.pt, not last.pt."


def test_nan_in_weights_statistics_that_are_off_and_half_a_file(tmp_path):
    run = write(
        tmp_path / "run",
        last=checkpoint(model(lambda net: net[0].bias.fill_(nan))),
        best=checkpoint(model(lambda net: net[1].running_mean.fill_(-2e4))),
    )
    found = look(run)
    assert kinds(found) == {"damaged_last": "error", "batchnorm": "warning"}
    assert not any(advice.rule == "use_best" for advice in found.advice)
    best = run / "weights" / "best.pt"
    best.write_bytes(best.read_bytes()[:1000])
    assert kinds(look(run)) == {"damaged_last": "error", "unreadable": "warning"}


def test_a_resumed_training_would_go_on_with_nan(tmp_path):
    moments = {"state": {0: {"exp_avg": torch.full((3,), nan)}}}
    last = checkpoint(model(), 7, optimizer=moments, scaler={"scale": 2.0**-20})
    found = look(write(tmp_path / "run", rows(7), last=last))
    assert kinds(found) == {"optimizer_state": "error", "loss_scale": "warning"}
    assert not any(advice.rule == "resume" for advice in found.advice)


# Where it ended -------------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_says_where_and_how_to_go_on(tmp_path):
    run = write(tmp_path / "run", rows(7), last=checkpoint(model(), 7))
    found = look(run)
    assert (found.status, found.health) == ("unfinished", "healthy")
    assert "The records end after epoch 7 of 20: killed" in found.headline
    [advice] = found.advice
    assert advice.command == f"gradsafe train model={run / 'weights' / 'last.pt'} resume=True"
    os.utime(run / "results.csv")
    files = [read_checkpoint(run / name, run) for name in CHECKPOINTS]
    running = examine(read_facts(run, files), default_arguments())
    assert "It may still be running: epoch 7 of 20 is done." in running.headline
    assert running.advice == []


def test_a_run_that_stopped_early_and_one_that_never_came_to_an_epoch(tmp_path):
    found = look(write(tmp_path / "early", rows(9)))
    assert (found.status, found.health) == ("finished", "healthy")
    assert found.headline.endswith("It stopped after epoch 9 of 20, by patience or time.")
    run = write(tmp_path / "none", [])
    for name in CHECKPOINTS:
        (run / name).unlink()
    found = look(run)
    assert (found.status, found.epochs) == ("unfinished", 0)
    assert found.headline.startswith("No epoch is on record.")


def test_epochs_twice_missing_and_of_double_length_are_noted_and_are_no_verdict(tmp_path):
    twice = [*rows(7), *[healthy(epoch) for epoch in range(6, 21) if epoch != 11]]
    for row in twice:
        row["time"] += 40 * (row["epoch"] > 15)
    found = look(write(tmp_path / "run", twice))
    assert found.health == "healthy"
    by_kind = {f.kind: f for f in found.findings}
    assert by_kind["repeated"].epochs == [6]
    assert by_kind["missing"].epochs == [11]
    assert 16 in by_kind["slow"].epochs


# Advice ---------------------------------------------------------------------------------------------------------------


def test_the_command_trains_the_same_again_with_what_is_to_change(tmp_path):
    epochs, changes, *_ = FAULTS["ran away"]
    found = look(write(tmp_path / "run", set_in(rows(), epochs, **changes)))
    lower = next(advice for advice in found.advice if advice.rule == "lower_rate")
    assert lower.arguments == "optimizer=AdamW lr0=0.0026"
    words = shlex.split(found.advice[-1].command)
    assert words[:2] == ["gradsafe", "train"]
    arguments = parse_arguments(words[2:])
    assert (arguments["model"], arguments["data"]) == ("yolo26n.pt", "my data.yaml")
    assert (arguments["epochs"], arguments["optimizer"], arguments["lr0"]) == (20, "AdamW", 0.0026)
    assert not {"save_dir", "name", "mode"} & set(arguments)


def test_the_rate_is_left_alone_where_only_the_warm_up_was_too_short(tmp_path):
    found = look(write(tmp_path / "run", set_in(rows(), [2], train=9.0), optimizer="SGD"))
    assert [advice.arguments for advice in found.advice if advice.arguments] == ["warmup_epochs=6"]


def test_nan_without_a_runaway_asks_for_the_data_and_for_full_precision(tmp_path):
    epochs, changes, *_ = FAULTS["validation nan to the end"]
    found = look(write(tmp_path / "run", set_in(rows(), epochs, **changes)))
    assert [advice.rule for advice in found.advice] == ["use_best", "check_data", "amp_off", "train_guarded"]
    assert found.advice[1].command == "gradsafe check 'my data.yaml'"


def test_of_a_resumed_run_the_model_is_the_one_it_was_built_from(tmp_path):
    epochs, changes, *_ = FAULTS["collapsed"]
    spoilt = set_in(rows(), epochs, **changes)
    found = look(
        write(tmp_path / "run", spoilt, model="runs/train/weights/last.pt", resume="runs/train/weights/last.pt")
    )
    assert "model=yolo26n.yaml " in found.advice[-1].command


# The command ----------------------------------------------------------------------------------------------------------


def report(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, words)], env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("place", ["", "weights", "weights/last.pt", "results.csv"])
def test_the_command_takes_any_place_of_the_run(tmp_path, place):
    run = write(tmp_path / "run")
    assert "Nothing wrong is on record" in report(run / place)
    assert json.loads((run / "postmortem.json").read_text())["health"] == "healthy"
    assert "Nothing wrong is on record" in (run / "postmortem.html").read_text()


def test_every_format_and_the_gate(tmp_path):
    epochs, changes, *_ = FAULTS["collapsed"]
    run = write(tmp_path / "run", set_in(rows(), epochs, **changes))
    assert report(run, "--format", "md").startswith("## Accuracy collapsed.")
    assert json.loads(report(run, "--format", "json"))["learned"] == "no"
    assert report(run, "--format", "html").strip() == str(run / "postmortem.html")
    assert "had no guard" in report(run, "--format", "png", code=2)
    assert "--fail-on failed: the run failed. Accuracy collapsed." in report(run, "--fail-on", "failed", code=1)
    assert "--fail-on survived" in report(
        write(tmp_path / "once", set_in(rows(), [8], train=nan)), "--no-plot", "--fail-on", "survived", code=3
    )
    assert not (tmp_path / "once" / "postmortem.html").exists()


def test_a_folder_of_something_else_is_no_run(tmp_path):
    assert "no gradsafe records in" in report(tmp_path, code=2)
