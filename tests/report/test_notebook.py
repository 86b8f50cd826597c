"""Guard and summary in a notebook: what they show before, during and after a training, in a real kernel too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.arm import ROOT
from tests.fake_trainer import Core
from tests.report import scenes
from yolo_gradsafe import GradSafe
from yolo_gradsafe.report.summarize import summarize


@pytest.mark.parametrize("name", ["healthy", "sick", "crashed", "empty"])
def test_a_summary_shows_verdict_figures_plots_incidents_and_advice(tmp_path, name):
    summary = summarize(getattr(scenes, name)(tmp_path / "run"))
    html = summary._repr_html_()
    assert f"{summary.verdict.label}</span>" in html
    assert "Gradient norm, median" in html
    assert ("<polyline" in html) is (len(summary.epochs) > 1)
    assert ("Incidents</div><ul" in html) is bool(summary.incidents)
    assert ("Advice</div><ul" in html) is bool(summary.advice)
    assert len(html) < 30_000
    assert repr(summary) == f"<Summary: {summary.headline}>"
    assert "gradient norm" in str(summary)


def test_text_from_outside_marks_nothing_up(tmp_path):
    summary = summarize(scenes.healthy(tmp_path / "run"))
    run = summary.run.model_copy(update={"model": "<script>alert(1)</script>.pt"})
    html = summary.model_copy(update={"run": run, "headline": "<b>&</b>"})._repr_html_()
    assert "<script>" not in html
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in html


def test_a_guard_before_during_and_after_a_training(tmp_path):
    guard = GradSafe(max_norm=5)
    assert repr(guard) == "<GradSafe: clip norm 5, recovery on; no training yet>"
    assert "no training yet" in guard._repr_html_()
    core = Core(tmp_path / "run")
    core.train(5)
    core.session._recorder.flush()
    assert "training, records in" in repr(core.guard)
    assert ">5</div>" in core.guard._repr_html_(), "five steps so far"
    core.session.finish()
    core.guard._take_summary(core.raw)
    core.guard._release(core.raw)
    assert core.guard.summary is not None
    assert core.guard.summary.headline in repr(core.guard)
    assert core.guard._repr_html_() == core.guard.summary._repr_html_()


def test_records_that_cannot_be_read_cost_the_picture_alone(tmp_path):
    core = Core(tmp_path / "run")
    core.session._recorder.paths.info.write_text('{"schema_version": 99}')
    assert "training, records in" in core.guard._repr_html_()


@pytest.mark.slow
def test_in_a_real_kernel(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the dev extra brings nbformat")
    client = pytest.importorskip("nbclient", reason="the dev extra brings nbclient")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    cells = [
        "from yolo_gradsafe import GradSafe, Summary\nguard = GradSafe()\nguard",
        "from pathlib import Path\nfrom tests.report import scenes\n"
        "from yolo_gradsafe.report.summarize import summarize\n"
        "guard.summary = summarize(scenes.sick(Path('run')))\nguard.summary",
        "guard",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [cell.outputs[-1]["data"] for cell in book.cells]
    assert "no training yet" in shown[0]["text/html"]
    assert shown[1]["text/plain"].startswith("<Summary: Survived 40 incidents")
    assert shown[1]["text/html"] == shown[2]["text/html"]
    page = Path(tmp_path, "shown.html")
    page.write_text(shown[0]["text/html"] + shown[1]["text/html"])
