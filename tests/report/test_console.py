"""What a terminal shows."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.report import scenes
from tests.report.runs import INF, INFO, NAN, bad, incident, overflow, row, write
from yolo_gradsafe.report.console import epoch_line, table
from yolo_gradsafe.report.summarize import summarize


def test_table_of_a_healthy_run(tmp_path):
    assert table(summarize(write(tmp_path, 30))).splitlines() == [
        "Healthy: 30 steps, none skipped.",
        "  steps           30 applied, 0 clipped (0.0 %), 0 skipped",
        "  gradient norm   median 4.132, p95 5.949, max 5.981",
        "  threshold       10",
        "  files           stability/steps.csv, stability/run.json,",
        "                  stability/options.yaml",
    ]


def test_table_of_a_run_that_did_not_learn_says_so_and_why(tmp_path):
    write(tmp_path, 120, lambda n: row(n, lr=0.3), info=replace(INFO, epochs=12, batches=10))
    (tmp_path / "args.yaml").write_text("lr0: 0.3\n", encoding="utf-8")
    (tmp_path / "results.csv").write_text(scenes.results([0.0] * 12), encoding="utf-8")
    assert table(summarize(tmp_path)).splitlines()[:4] == [
        "Did not learn: mAP50 0 after 12 epochs; lr0=0.3 is too high.",
        "  learned         no: lr0=0.3 is too high",
        "                    accuracy stayed at 0 for 12 epochs",
        "  accuracy        mAP50 0 in epoch 1, 0 in epoch 12",
    ]


def test_table_of_a_sick_run_is_short_and_narrow(tmp_path):
    long = incident(2, message="word " * 40, images=[f"/far/away/{'x' * 90}{n}.jpg" for n in range(9)])
    run = write(
        tmp_path,
        30,
        lambda step: bad(step) if step < 8 else row(step),
        [incident(1), long, *map(incident, range(3, 8))],
    )
    text = table(summarize(run))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("action: The step was skipped.") == 5
    assert "and 2 more in stability/incidents.jsonl" in text
    assert "images: a.jpg, b.jpg" in text
    assert "and 6 more" in text
    assert "/far/away" not in text


def test_what_was_done_further_follows_in_its_own_words(tmp_path):
    found = [incident(3), incident(3, kind="quarantine", action="left out of later batches")]
    lines = table(summarize(write(tmp_path, 9, incidents=found))).splitlines()
    assert [line.split()[0] for line in lines if "batches" in line] == ["then:"]


def test_an_incident_says_what_it_cost_and_what_stock_would_have_lost(tmp_path):
    found = [incident(3, steps_lost=1), incident(4, steps_lost=1), incident(5, kind="diverging")]
    run = write(tmp_path, 30, lambda n: bad(n) if n in (3, 4, 5) else row(n), found, replace(INFO, amp="fp16"))
    text = " ".join(table(summarize(run)).split())
    assert re.findall(r"action: The step was skipped\. (.*?) (?=epoch|advice)", text) == [
        "it did not hold: the same happened again after 0 healthy steps; 1 step lost "
        "stock Ultralytics: skips the step as well: GradScaler does it",
        "it held: 25 healthy steps since; 1 step lost",
        "it held: 25 healthy steps since stock Ultralytics: trains on with these weights at the same learning rate",
    ], "the second one says nothing new of stock"


def test_an_incident_of_which_nothing_came_says_nothing_of_it(tmp_path):
    quiet = incident(3, kind="internal_error", remedies=("observed",))
    text = table(summarize(write(tmp_path, 30, incidents=[quiet])))
    assert "action: " in text
    assert not any(word in text for word in ("lost", "healthy steps", "stock Ultralytics"))


def test_table_of_a_mixed_precision_run(tmp_path):
    run = write(
        tmp_path,
        9,
        lambda step: overflow(step) if step == 1 else row(step, amp_scale=32768.0),
        info=replace(INFO, amp="fp16"),
    )
    text = table(summarize(run))
    assert "AMP             scale 65536 to 32768, lowest 32768" in text
    assert "1 overflow (routine)" in text


def test_table_without_a_step(tmp_path):
    text = table(summarize(write(tmp_path, 0)))
    assert "gradient norm   no step had a finite norm" in text
    assert "threshold       none" in text


def test_text_from_outside_cannot_steer_the_terminal(tmp_path):
    run = write(tmp_path, 9, incidents=[incident(3, message="a\x1b[31m\nb", images=["/x/\x1b]0;evil\x07.jpg"])])
    text = table(summarize(run))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "a\\x1b[31m b" in text


@pytest.mark.parametrize("counts", [{}, {"ok": 9}, {"ok": 9, "clipped": 5, "amp_overflow": 3, "bad_batch": 0}])
def test_no_line_on_a_routine_epoch(counts):
    assert epoch_line(1, counts, 3.0) is None


def test_line_on_an_epoch_in_which_something_happened():
    counts = {"ok": 96, "spike": 1, "bad_batch": 2, "amp_overflow": 1}
    assert epoch_line(4, counts, 153.21) == "epoch 4: 2 bad batches, 1 spike in 100 steps; largest gradient norm 153"


@pytest.mark.parametrize("norm", [NAN, INF, -INF])
def test_line_without_a_finite_norm(norm):
    assert epoch_line(1, {"poisoned": 1}, norm) == "epoch 1: 1 poisoned step in 1 step"
