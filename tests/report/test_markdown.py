"""The summary as Markdown."""

from __future__ import annotations

from dataclasses import replace

from tests.report import scenes
from tests.report.runs import INFO, bad, incident, row, write
from yolo_gradsafe.report.markdown import markdown
from yolo_gradsafe.report.summarize import summarize


def test_healthy_run(tmp_path):
    text = markdown(summarize(scenes.healthy(tmp_path)))
    assert text.startswith("## Healthy: 300 steps, none skipped.\n")
    assert "| Steps | **300** | 300 applied, 0 skipped |" in text
    assert "### " not in text


def test_sick_run(tmp_path):
    text = markdown(summarize(scenes.sick(tmp_path)))
    assert "`lr0=0.003`" in text
    assert "and 20 more in `stability/incidents.jsonl`" in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == (2 + 4) + (2 + 20)


def test_an_incident_says_what_it_cost_and_what_stock_would_have_lost(tmp_path):
    found = [incident(3, steps_lost=1), incident(9, kind="internal_error"), incident(12, kind="quarantine")]
    run = write(tmp_path, 30, lambda n: bad(n) if n == 3 else row(n), found, replace(INFO, amp="fp16"))
    cells = [line.split(" | ") for line in markdown(summarize(run)).partition("### Incidents")[2].splitlines()]
    rows = {found[2]: found[-2:] for found in cells if len(found) == 8}
    assert rows["Step"] == ["Cost", "Stock Ultralytics |"]
    assert rows["3"] == ["1 step lost", "skips the step as well: GradScaler does it |"]
    assert rows["9"] == rows["12"] == ["", " |"], "there is nothing to say"


def test_text_from_outside_marks_nothing_up(tmp_path):
    hostile = incident(3, message="a | b <img src=x> [x](http://y) @someone #1 `c`\nd", images=["/x/*.jpg"])
    text = markdown(summarize(write(tmp_path, 9, incidents=[hostile])))
    line = next(line for line in text.splitlines() if line.startswith("| 1 | 3 | 3 |"))
    assert "a \\| b \\<img src=x\\> \\[x\\](http://y) @\u200bsomeone \\#1 \\`c\\` d" in line
    assert "\\*.jpg" in line
