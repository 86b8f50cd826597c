"""``gradsafe report``, ``compare`` and ``watch`` on runs of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.report import scenes
from tests.report.runs import INFO
from yolo_gradsafe.cli import app
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.telemetry import Recorder, RunPaths

ROOT = Path(__file__).parents[2]
SCENES = {
    "healthy": "Healthy: 300 steps, none skipped.",
    "sick": "Did not learn: model.5 had no gradient at all after epoch 25. 40 incidents: 40 of 2000 steps were "
    "skipped.",
    "crashed": "Survived 1 incident so far: 1 of 119 steps was skipped.",
    "empty": "No step was recorded so far.",
}


def gradsafe(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert done.exit_code == code, done.output
    return done.output


def one_line(output: str) -> str:
    """Return what a terminal shows without the breaks of its lines."""
    return " ".join(output.split())


@pytest.fixture(scope="module", params=list(SCENES))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, getattr(scenes, request.param)(tmp_path_factory.mktemp("scene") / "run")


def test_report_writes_everything_and_prints_the_table(scene):
    name, run = scene
    assert SCENES[name] in one_line(gradsafe("report", run))
    for file in ("stability.html", "stability.png", "stability.json", "stability.yaml"):
        assert (run / file).stat().st_size


GATE = {"healthy": (0, 0), "sick": (0, 4), "crashed": (1, 1), "empty": (1, 1)}
"""Exit codes under ``--fail-on failed`` and ``--fail-on survived``."""


def test_a_pipeline_can_stop_at_a_verdict(scene):
    name, run = scene
    for fail_on, code in zip(("failed", "survived"), GATE[name], strict=True):
        output = gradsafe("report", run, "--no-plot", "--fail-on", fail_on, code=code)
        assert (f"--fail-on {fail_on}: the run " in output) is (code != 0)
        assert SCENES[name] in one_line(output)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RuntimeError: planted", "the run failed. Failed at epoch 30: RuntimeError: planted"),
        ("KeyboardInterrupt: ", "the run did not finish. Healthy before it was interrupted: 300 steps"),
        ("SystemExit: 0", "the run did not finish. Healthy before it was interrupted: 300 steps"),
    ],
)
def test_a_run_that_ended_early_does_not_pass(error, words, tmp_path):
    run = scenes.healthy(tmp_path / "run")
    path = RunPaths(run).info
    path.write_text(json.dumps({**json.loads(path.read_text()), "error": error}))
    assert words in gradsafe("report", run, "--no-plot", "--fail-on", "failed", code=1)


UNLEARNED = {"failed": 0, "unlearned": 4, "survived": 4}


def test_a_run_whose_model_did_not_learn_does_not_pass(tmp_path):
    run = scenes.healthy(tmp_path / "run", steps=120)
    (run / "results.csv").write_text(scenes.results([0.0] * 12), encoding="utf-8")
    for fail_on, code in UNLEARNED.items():
        output = gradsafe("report", run, "--no-plot", "--fail-on", fail_on, code=code)
        assert ("the run did not learn. Did not learn: mAP50 0 after 12 epochs" in one_line(output)) is (code != 0)
    assert "--strict: the run did not learn" in gradsafe("report", run, "--no-plot", "--strict", code=4)
    (run / "results.csv").write_text(scenes.results([0.0, *[0.5] * 11]), encoding="utf-8")
    gradsafe("report", run, "--no-plot", "--strict")


def test_strict_wants_to_know(scene):
    name, run = scene
    code = {"crashed": 1, "empty": 1}.get(name, 4)
    output = gradsafe("report", run, "--no-plot", "--strict", code=code)
    assert ("is not known to have learned" in output) is (name == "healthy")
    if name == "healthy":
        assert "the run did" not in gradsafe("report", run, "--no-plot", "--fail-on", "unlearned")


def test_a_gate_without_records_is_a_wrong_argument(tmp_path):
    gradsafe("report", tmp_path, "--fail-on", "failed", code=2)
    gradsafe("report", tmp_path, "--fail-on", "healthy", code=2)


@pytest.mark.parametrize("format", ["json", "md", "html"])
def test_report_makes_one_format(scene, format):
    name, run = scene
    page = run / "stability.html"
    page.unlink(missing_ok=True)
    output = gradsafe("report", run, "--format", format)
    if format == "json":
        assert Summary.model_validate_json(output).headline == SCENES[name]
    elif format == "md":
        assert output.startswith(f"## {SCENES[name]}")
    else:
        assert output.strip() == str(page)
    assert page.exists() is (format == "html")


def test_watch_looks_once_where_output_is_no_terminal(scene):
    name, run = scene
    assert SCENES[name] in one_line(gradsafe("watch", run))


def test_watch_follows_a_run_to_its_end(tmp_path):
    recorder = Recorder(scenes.crashed(tmp_path)).start(resume=True)
    end = threading.Timer(1.0, recorder.info, [INFO])
    end.start()
    words = ["watch", str(tmp_path), "--every", "0.2"]
    done = CliRunner().invoke(app, words, env={"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"})
    assert done.exit_code == 0
    assert not end.is_alive()
    assert "finished" in done.output


def test_compare(scene, tmp_path):
    _, run = scene
    output = gradsafe("compare", run, scenes.healthy(tmp_path / "other"), "--html", "--out", tmp_path / "c.html")
    assert "optimizer steps" in output
    assert (tmp_path / "c.html").is_file()


@pytest.mark.parametrize("words", [["report"], ["report", "--format", "md"], ["watch"], ["compare", "."]])
def test_newer_records_and_none_are_refused_in_words(tmp_path, words):
    run = scenes.newer(tmp_path / "new")
    assert "newer gradsafe (records of version 9, this one reads up to 2)" in gradsafe(*words, run, code=2).replace(
        "\n", " "
    ) or words == ["compare", "."]
    assert "no gradsafe records in" in gradsafe(*words, tmp_path, code=2)


def test_mistakes(tmp_path):
    assert "the folder of the run is missing" in gradsafe("report", code=2)
    assert "two runs or more" in gradsafe("compare", tmp_path, code=2)
    run = scenes.empty(tmp_path)
    assert "--open works with --format html or png only" in gradsafe("report", run, "--format", "md", "--open", code=2)


def test_open(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("typer.launch", opened.append)
    run = scenes.healthy(tmp_path / "a b", steps=20)
    gradsafe("report", run, "--open")
    gradsafe("report", run, "--format", "png", "--open")
    gradsafe("compare", run, run, "--open", "--out", tmp_path / "c.html")
    assert opened == [
        (run / "stability.html").as_uri(),
        (run / "stability.png").as_uri(),
        (tmp_path / "c.html").as_uri(),
    ]


def test_schema():
    schema = json.loads(gradsafe("report", "--schema"))
    assert "headline" in schema["required"]
    assert "Advice" in schema["$defs"]


def test_a_page_that_cannot_be_made_costs_no_numbers(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no page")

    monkeypatch.setattr("yolo_gradsafe.report.page.write_page", fail)
    run = scenes.healthy(tmp_path, steps=20)
    assert "Healthy" in gradsafe("report", run)
    assert "no page" in caplog.text
    assert (run / "stability.png").is_file()
    assert not (run / "stability.html").exists()
    assert RunPaths(run).summary.is_file()


def test_help_is_light():
    heavy = {"torch", "ultralytics", "polars", "matplotlib", "jinja2", "cv2"}
    code = f"import sys, yolo_gradsafe.cli; assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
