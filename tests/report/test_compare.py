"""Runs side by side: what is compared, what is left out, and what a page and a terminal show of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import scenes
from tests.report.runs import INFO, row, write
from tests.report.test_page import Page
from yolo_gradsafe.report.compare import compare, gather
from yolo_gradsafe.report.page.comparison import write_comparison
from yolo_gradsafe.report.parts import ReportError

RESULTS = """epoch,time,metrics/mAP50(B),val/box_loss,lr/pg0
1,{0},0.1,2.0,0.01
2,{1},0.2,1.5,0.01
3,{2},{3},1.25,0.01
"""


def finished(run: Path, seconds: float, score: float, **changes: object) -> Path:
    """Record a run with Ultralytics' own files."""
    write(run, **changes)  # type: ignore[arg-type]
    text = RESULTS.format(seconds, 2 * seconds, 3 * seconds, score)
    (run / "results.csv").write_text(text, encoding="utf-8")
    (run / "args.yaml").write_text(f"lr0: {score}\nepochs: 3\nname: {run.name}\nsave_dir: {run}\n", encoding="utf-8")
    return run


def table(*runs: Path) -> dict[str, list[str]]:
    found = compare(gather(runs))
    return {row.name: row.values for rows in found.sections.values() for row in rows}


def test_outcome_cost_and_differences(tmp_path):
    first = finished(tmp_path / "a", 10.0, 0.5, steps=30)
    second = finished(tmp_path / "b", 11.0, 0.75, steps=60, info=replace(INFO, environment={"torch": "2.9.0"}),
                      options="clip: {mode: norm, max_norm: 5.0}\n")  # fmt: skip
    found = table(first, second)
    assert found["metrics/mAP50(B)"] == ["0.5", "0.75"]
    assert found["val/box_loss"] == ["1.25", "1.25"]
    assert found["optimizer steps"] == ["30", "60"]
    assert found["seconds an epoch"] == ["10", "11"]
    assert found["of the first run's"] == ["x1.000", "x1.100"]
    assert found["gradsafe.clip.max_norm"] == ["10.0", "5.0"]
    assert found["lr0"] == ["0.5", "0.75"]
    assert found["version of torch"] == ["2.8.0", "2.9.0"]
    assert not {"epochs ", "name", "save_dir", "gradsafe.clip.mode", "lr/pg0"} & set(found)


def test_what_was_not_recorded_is_not_set_differently(tmp_path):
    found = table(finished(tmp_path / "a", 1.0, 0.5), write(tmp_path / "b", 30, info=None, options=None))
    assert "lr0" not in found
    assert "gradsafe.clip.max_norm" not in found
    assert found["metrics/mAP50(B)"] == ["0.5", "–"]
    assert "of the first run's" not in found


def test_runs_of_every_kind(tmp_path):
    runs = [getattr(scenes, name)(tmp_path / name) for name in ("healthy", "sick", "crashed", "empty")]
    found = table(*runs)
    assert found["health"] == ["healthy", "survived", "survived", "healthy"]
    assert found["status"] == ["finished", "finished", "unfinished", "unfinished"]
    assert found["incidents"] == ["0", "40", "1", "0"]
    assert found["norm, median"][3] == "–"


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = [write(tmp_path / "detect" / "train", 3), write(tmp_path / "pose" / "train", 3)]
    assert compare(gather(runs)).names == ["detect/train", "pose/train"]
    assert compare(gather([runs[0], runs[0]])).names == ["train (1)", "train (2)"]


def test_a_run_of_a_newer_version_is_refused(tmp_path):
    with pytest.raises(ReportError, match=r"newer gradsafe.*pip install -U"):
        gather([write(tmp_path / "a", 3), scenes.newer(tmp_path / "b")])


def test_page(tmp_path):
    runs = [write(tmp_path / "a", 30), scenes.sick(tmp_path / "<b>bold")]
    members = gather(runs)
    found = Page(write_comparison(tmp_path / "compare.html", members, compare(members)).read_text(encoding="utf-8"))
    assert "<b>bold" in found.text
    assert "b" not in {tag for tag, _ in found.elements}
    assert '"threshold"' not in found.scripts["data"]  # the same in both, all the time


def test_thresholds_are_shown_where_they_differ(tmp_path):
    runs = [write(tmp_path / "a", 30), write(tmp_path / "b", 30, lambda n: row(n, threshold=5.0))]
    members = gather(runs)
    found = Page(write_comparison(tmp_path / "compare.html", members, compare(members)).read_text(encoding="utf-8"))
    assert '"id":"threshold"' in found.scripts["data"]


@pytest.mark.parametrize("factor", [0.01, 1.0])
def test_a_rate_that_was_lowered_far_has_a_logarithmic_axis(tmp_path, factor):
    def change(step):
        return row(step, lr=0.01 * factor if step > 9 else 0.01, lr_factor=factor if step > 9 else 1.0)

    members = gather(
        [finished(tmp_path / "a", 10.0, 0.5), finished(tmp_path / "b", 11.0, 0.5, steps=30, change=change)]
    )
    path = write_comparison(tmp_path / "compare.html", members, compare(members))
    panels = json.loads(Page(path.read_text(encoding="utf-8")).scripts["data"])["panels"]
    assert next(panel["log"] for panel in panels if panel["id"] == "rate") is (factor < 0.5)
