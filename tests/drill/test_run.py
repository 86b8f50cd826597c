"""``gradsafe drill`` as a user types it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from benchmarks import drill as benchmark
from tests.test_cli import gradsafe
from yolo_gradsafe.cli import app
from yolo_gradsafe.drill import run
from yolo_gradsafe.drill.catalogue import SCENARIOS


@pytest.mark.slow
def test_a_nan_pixel_from_the_command_line(tmp_path):
    done = gradsafe("drill", "nan-pixel", "--quick", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 cases passed." in done.stdout
    text = (tmp_path / "out" / "drill.md").read_text()
    assert text.strip() in done.stdout
    (row,) = json.loads((tmp_path / "out" / "drill.json").read_text())["rows"]
    stock, guarded, clean = row["stock"], row["guarded"], row["clean"]["outcomes"][0]
    assert stock["fired"] == guarded["fired"] == 1
    assert stock["epochs_redone"] == 1
    assert guarded["epochs_redone"] == clean["epochs_redone"] == 0
    assert (clean["applied"], guarded["applied"]) == (6, 5)
    assert guarded["verdicts"]["bad_batch"] == 1
    assert set(guarded["not_finite"].values()) == {0}

    report = tmp_path / "out" / "nan-pixel-detect-fp32-AdamW" / "stock" / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "error": "as it was left"}))
    for word, told in (("--stock", True), ("--no-stock", False)):
        again = gradsafe("drill", "nan-pixel", "--quick", "--out", "out", "--resume", word, cwd=tmp_path)
        assert again.returncode == 0
        assert ("died: as it was left" in again.stdout) is told


def test_list():
    done = CliRunner().invoke(app, ["drill", "--list"])
    assert done.exit_code == 0
    assert all(name in done.output for name in SCENARIOS)
    assert max(map(len, done.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["nan-pixle"], ["unknown fault 'nan-pixle'", "Did you mean 'nan-pixel'?", "--list"]),
        (["--precision", "fp23"], ["--precision: unknown 'fp23'", "Did you mean 'fp32'?"]),
        (["--task", "segment"], ["--task: unknown 'segment'. Allowed: detect, pose."]),
        (["nan-pixel", "imgzs=64"], ["'imgzs' is not a valid YOLO argument"]),
        (["nan-pixel", "model=mine.pt"], ["'model='", "--model"]),
    ],
)
def test_what_is_wrong_is_said_before_training_with_exit_code_2(words, messages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["drill", *words])
    assert done.exit_code == 2
    for message in messages:
        assert message in done.output
    assert not list(tmp_path.iterdir())


def test_a_fault_that_is_named_gets_the_optimizer_that_it_is_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(run, "run_cases", lambda cases, *_, **__: asked.extend(map(str, cases)) or [])
    words = ["drill", "diverging-musgd", "zero-scale", "nan-pixel", "--precision", "bf16", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert asked == [
        "diverging-musgd-detect-bf16-MuSGD",
        "zero-scale-detect-fp16-AdamW",
        "zero-scale-detect-scaler-AdamW",
        "nan-pixel-detect-bf16-AdamW",
    ]


def test_the_benchmark_asks_for_the_whole_matrix(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(run, "run_cases", lambda cases, *_, **__: asked.extend(cases) or [])
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--out", str(tmp_path)])
    assert ended.value.code == 0
    assert {case.fault for case in asked} == set(SCENARIOS) - {"fp16-overflow"}
    assert {(case.task, case.precision, case.optimizer) for case in asked if case.fault == "nan-pixel"} == {
        (task, precision, optimizer)
        for task in ("detect", "pose")
        for precision in ("fp32", "bf16", "scaler")
        for optimizer in ("SGD", "AdamW", "MuSGD")
    }
