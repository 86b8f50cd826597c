"""What a summary says of a finished, failed or unfinished run, and that it survives a file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from tests.report import scenes
from tests.report.runs import INF, INFO, NAN, bad, clipped, incident, overflow, row, write
from yolo_gradsafe.report import build
from yolo_gradsafe.report.accuracy import accuracy_by_step
from yolo_gradsafe.report.console import table
from yolo_gradsafe.report.markdown import markdown
from yolo_gradsafe.report.parts import IncidentEntry, ReportError, Run
from yolo_gradsafe.report.records import read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.telemetry import Incident, RunInfo, RunPaths, Verdict


def strict(path: Path) -> dict:
    def refuse(token: str) -> None:
        raise AssertionError(f"not strict JSON: {token}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_healthy_run(tmp_path):
    summary = summarize(write(tmp_path, 30, lambda step: clipped(step) if step == 7 else row(step)))
    assert (summary.status, summary.health) == ("finished", "healthy")
    assert summary.headline == "Healthy: 30 steps, none skipped."
    assert (summary.steps.total, summary.steps.applied, summary.steps.skipped, summary.steps.clipped) == (30, 30, 0, 1)
    assert summary.steps.clipped_share == pytest.approx(1 / 30)
    assert summary.steps.verdicts == {**{str(word): 0 for word in Verdict}, "ok": 29, "clipped": 1}
    assert summary.grad_norm.max == 20.0
    assert summary.grad_norm.min <= summary.grad_norm.median <= summary.grad_norm.p95 <= summary.grad_norm.p99 <= 20
    assert summary.threshold == 10.0
    assert not summary.amp.enabled
    assert summary.amp.scale_first is None
    assert summary.incidents == []
    assert summary.run.model == "yolo26n.pt"
    assert summary.run.environment == {"python": "3.11.7", "torch": "2.8.0"}
    assert summary.options == {"clip": {"mode": "norm", "max_norm": 10.0}}
    assert summary.files == ["stability/steps.csv", "stability/run.json", "stability/options.yaml"]


def test_grad_norm_is_of_applied_steps_with_a_finite_norm_only(tmp_path):
    def change(step):
        return {1: row(1, grad_norm=1.0), 2: row(2, grad_norm=3.0), 3: bad(3, grad_norm=1e6), 4: overflow(4)}[step]

    norm = summarize(write(tmp_path, 4, change)).grad_norm
    assert (norm.min, norm.median, norm.max) == (1.0, 2.0, 3.0)


def test_survived_run(tmp_path):
    run = write(
        tmp_path, 30, lambda step: bad(step) if step in (3, 12, 13) else row(step), [incident(step) for step in (3, 12)]
    )
    summary = summarize(run)
    assert summary.health == "survived"
    assert summary.headline == "Survived 2 incidents: 3 of 30 steps were skipped."
    assert [epoch.skipped for epoch in summary.epochs] == [1, 2, 0]
    entry = summary.incidents[0]
    assert (entry.loss, entry.grad_norm, entry.items) == (
        "nan",
        "nan",
        {"box_loss": "nan", "cls_loss": "inf", "dfl_loss": 1.0},
    )
    assert entry.images == ["/data/images/a.jpg", "/data/images/b.jpg"]
    assert entry.time


def test_headlines_count_in_words_that_fit(tmp_path):
    run = write(tmp_path / "one", 9, lambda step: bad(step) if step == 3 else row(step), [incident(3)])
    assert summarize(run).headline == "Survived 1 incident: 1 of 9 steps was skipped."
    run = write(tmp_path / "lost", 9, lambda step: bad(step) if step == 3 else row(step))
    assert summarize(run).headline == "Survived: 1 of 9 steps was skipped."
    run = write(tmp_path / "none", 9, incidents=[incident(3, kind="internal_error")])
    assert summarize(run).headline == "Survived 1 incident: none of 9 steps was skipped."


def test_run_that_was_ended_by_an_exception(tmp_path):
    summary = summarize(write(tmp_path, 35, info=replace(INFO, finished="", error="RuntimeError: out of\nmemory")))
    assert (summary.status, summary.health) == ("failed", "failed")
    assert summary.headline == "Failed at epoch 4: RuntimeError: out of memory"


def test_exception_before_the_first_step(tmp_path):
    summary = summarize(write(tmp_path, 0, info=replace(INFO, finished="", error="RuntimeError: no GPU")))
    assert summary.headline == "Failed at the start: RuntimeError: no GPU"
    assert (summary.steps.total, summary.grad_norm, summary.threshold, summary.epochs) == (0, None, None, [])


def test_run_whose_last_steps_were_all_skipped_has_failed(tmp_path):
    summary = summarize(write(tmp_path, 30, lambda step: bad(step) if step > 18 else row(step), [incident(19)]))
    assert (summary.status, summary.health) == ("finished", "failed")
    assert summary.headline == "Failed at epoch 3: 12 steps in a row skipped, up to the last of 30."
    assert summarize(write(tmp_path / "short", 3, bad)).health == "failed"
    loss = [incident(step, cause="loss", source="own.py:6") for step in range(19, 31)]
    named = summarize(write(tmp_path / "named", 30, lambda step: bad(step) if step > 18 else row(step), loss))
    assert named.headline.endswith("up to the last of 30, because of a loss that was not finite (own.py:6).")


def test_one_bad_batch_at_the_end_is_no_failure(tmp_path):
    assert summarize(write(tmp_path, 30, lambda step: bad(step) if step == 30 else row(step))).health == "survived"


def test_a_bad_step_that_was_applied_counts_as_applied(tmp_path):
    run = write(tmp_path, 9, lambda step: bad(step, clip_scale=1.0) if step == 3 else row(step), [incident(3)])
    summary = summarize(run)
    assert (summary.steps.applied, summary.steps.skipped, summary.steps.verdicts["bad_batch"]) == (9, 0, 1)


def test_amp_overflows_are_routine(tmp_path):
    def change(step):
        return overflow(step, 65536 / 2 ** (step - 1)) if step < 4 else row(step, amp_scale=8192.0)

    summary = summarize(write(tmp_path, 30, change, info=replace(INFO, amp="fp16")))
    assert summary.health == "healthy"
    assert (summary.steps.applied, summary.steps.skipped, summary.amp.overflows) == (27, 0, 3)
    amp = summary.amp
    assert (amp.enabled, amp.scale_first, amp.scale_min, amp.scale_last) == (True, 65536.0, 8192.0, 8192.0)
    assert [epoch.amp_overflows for epoch in summary.epochs] == [3, 0, 0]


def test_amp_is_seen_from_the_steps_where_the_run_did_not_say(tmp_path):
    assert summarize(write(tmp_path, 3, lambda step: row(step, amp_scale=1024.0), info=None)).amp.enabled


def test_epochs(tmp_path):
    def change(step):
        return {11: bad(11), 12: clipped(12, 50.0, loss=4.0), 13: row(13, loss=2.0, grad_norm=2.0)}.get(step, row(step))

    first, second = summarize(write(tmp_path, 13, change)).epochs
    assert (first.epoch, first.steps, first.clipped) == (1, 10, 0)
    assert second.model_dump() == {
        "epoch": 2,
        "accuracy": None,
        "fitness": None,
        "steps": 3,
        "grad_norm_median": 26.0,
        "grad_norm_max": 50.0,
        "clipped": 1,
        "skipped": 1,
        "amp_overflows": 0,
        "loss_mean": 3.0,
    }


def test_no_finite_number_at_all(tmp_path):
    summary = build(write(tmp_path, 12, lambda step: bad(step, threshold=INF, loss=-INF)), plot=False)
    assert (summary.grad_norm, summary.threshold) == (None, None)
    assert {epoch.loss_mean for epoch in summary.epochs} == {None}
    strict(tmp_path / "stability.json")


def test_round_trip_through_strict_json(tmp_path):
    run = write(tmp_path, 30, lambda step: bad(step) if step % 9 == 0 else row(step), [incident(9), incident(18)])
    summary = build(run, plot=False)
    data = strict(run / "stability.json")
    assert data["schema_version"] == 3
    assert data["incidents"][0]["loss"] == "nan"
    assert data["incidents"][0]["items"] == {"box_loss": "nan", "cls_loss": "inf", "dfl_loss": 1.0}
    loaded = Summary.load(run / "stability.json")
    assert loaded == summary
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (run / "stability.json").read_bytes()


def test_numbers_of_an_incident_are_words_where_they_are_not_finite():
    entry = IncidentEntry(kind="bad_batch", epoch=1, step=1, batch=1, message="", action="", loss=-INF, grad_norm=NAN)
    assert (entry.loss, entry.grad_norm) == ("-inf", "nan")


def test_steps_that_a_rollback_undid_are_counted(tmp_path):
    found = [incident(21, steps_lost=1), incident(21, kind="rollback", steps_lost=11)]
    run = write(tmp_path, 30, lambda step: bad(step) if step == 21 else row(step), found)
    assert summarize(run).headline == "Survived 1 incident: 1 of 30 steps was skipped, 11 undone."


def test_each_step_is_undone_once(tmp_path):
    """Ever new rollbacks to the same snapshot, as after validations that fail, take back the same steps."""
    back = [
        incident(8 * n, kind="rollback", place="validation", snapshot=0, undone=8 * n, steps_lost=8 * n)
        for n in range(1, 11)
    ]
    summary = summarize(write(tmp_path / "a", 80, incidents=back))
    assert summary.steps.undone == 80
    assert summary.headline == "Survived 10 incidents: none of 80 steps was skipped, 80 undone."
    overlap = [
        incident(20, kind="rollback", snapshot=10, undone=9),
        incident(25, kind="rollback", snapshot=15, undone=9),
    ]
    some = summarize(write(tmp_path / "b", 30, lambda n: bad(n) if n in (12, 20) else row(n), overlap)).steps
    assert (some.skipped, some.undone) == (2, 12), "11 to 24, without the two that were skipped"
    assert some.skipped + some.undone <= some.total


def learned(run: Path, fitness: list[float], **more: object) -> Summary:
    """Record a run of ten steps an epoch that was validated after each."""
    info = replace(INFO, epochs=len(fitness), batches=10)
    write(run, 10 * len(fitness), **{"info": info, **more})  # type: ignore[arg-type]
    (run / "results.csv").write_text(scenes.results(fitness), encoding="utf-8")
    (run / "args.yaml").write_text("lr0: 0.3\noptimizer: AdamW\n", encoding="utf-8")
    return summarize(run)


def test_statistics_that_lagged_are_named_in_the_headline(tmp_path):
    lagged = Incident("batchnorm_lag", 2, 15, 5, place="validation", remedies=("batchnorm_momentum_raised",))
    write(tmp_path, 30, row, [lagged])
    expected = "Survived: batch-norm statistics lagged behind the weights; they follow faster since step 15."
    assert summarize(tmp_path).headline == expected


def test_accuracy_stands_in_the_headline(tmp_path):
    good = learned(tmp_path / "a", [0.0, 0.2, 0.4, 0.5, 0.6])
    assert good.learned == "yes"
    assert good.headline == "Healthy: 50 steps, none skipped; mAP50 0.9."
    assert good.accuracy.model_dump() == {
        "metric": "mAP50", "best": 0.9, "best_epoch": 5, "last": 0.9, "last_epoch": 5
    }  # fmt: skip
    less = learned(tmp_path / "b", [0.0, 0.2, 0.4, 0.5, 0.1], incidents=[incident(30)])
    assert less.headline.endswith("was skipped; mAP50 0.75 in epoch 4, 0.15 at the end.")
    failed = learned(tmp_path / "c", [0.0, 0.2, 0.4], info=replace(INFO, error="RuntimeError: planted"))
    assert failed.headline == "Failed at epoch 3: RuntimeError: planted; mAP50 0.6."


def test_a_run_that_found_nothing_is_never_healthy(tmp_path):
    hot = learned(tmp_path / "a", [0.0] * 12, change=lambda n: row(n, lr=0.3))
    assert (hot.health, hot.learned, hot.verdict.label) == ("healthy", "no", "Did not learn")
    assert hot.headline == "Did not learn: mAP50 0 after 12 epochs; lr0=0.3 is too high."
    assert [reason.reason for reason in hot.reasons] == ["rate_too_high", "never_rose"]
    sick = learned(tmp_path / "b", [0.0] * 12, change=lambda n: bad(n) if n == 9 else row(n), incidents=[incident(9)])
    assert sick.headline.startswith("Did not learn: mAP50 0 after 12 epochs")
    assert sick.headline.endswith("1 incident: 1 of 120 steps was skipped.")
    short = learned(tmp_path / "c", [0.0, 0.0])
    assert (short.learned, short.verdict.label) == ("unknown", "Too early to tell")
    assert short.headline == "Too early to tell: 20 steps, none skipped; mAP50 0."
    assert short.advice == []
    lost = learned(tmp_path / "d", [0.0, 0.2, 0.4, 0.3, *[0.0] * 8])
    assert lost.headline.startswith("Learned, and lost it: mAP50 0 after 12 epochs, 0.6 in epoch 3 (best.pt)")
    running = learned(tmp_path / "e", [0.0] * 12, info=replace(INFO, finished="", epochs=20, batches=10))
    assert running.headline.startswith("Did not learn so far: mAP50 0 after 12 epochs")


def test_accuracy_that_was_lost_is_in_the_headline_whatever_the_best_epoch_says(tmp_path):
    fell = learned(tmp_path / "a", [0.6, 0.6, 0.5, 0.4, 0.35, 0.32, 0.307])
    assert (fell.learned, fell.verdict.label) == ("no", "Did not learn")
    assert fell.headline == "Did not learn: mAP50 0.461 after 7 epochs, 0.9 in epoch 1 (best.pt)."
    assert (fell.advice[0].rule, fell.advice[0].arguments) == ("rate_too_high", "lr0=0.002")
    assert fell.advice[0].evidence == "Fitness was 0.6 after epoch 1, never better, and 0.31 at the end."
    rose = learned(tmp_path / "b", [0.3, 0.6, 0.5, 0.4, 0.35, 0.32, 0.307])
    assert (rose.learned, rose.advice) == ("yes", [])
    assert rose.headline == "Healthy: 70 steps, none skipped; mAP50 0.9 in epoch 2, 0.461 at the end."
    noise = learned(tmp_path / "c", [0.3, 0.5, 0.6, 0.55])
    assert noise.headline.endswith("; mAP50 0.9."), "the last is 0.92 of it"


def test_accuracy_stands_beside_the_norms_of_its_epoch(tmp_path):
    summary = learned(tmp_path, [0.0, 0.2, 0.4])
    assert [(epoch.accuracy, epoch.fitness) for epoch in summary.epochs] == [(0.0, 0.0), (0.3, 0.2), (0.6, 0.4)]
    x, accuracy, _ = accuracy_by_step(read_steps(RunPaths(tmp_path)), summary)
    assert (x.tolist(), accuracy.tolist()) == ([10, 20, 30], [0.0, 0.3, 0.6])


def test_the_last_earlier_run_of_the_same_data_is_named(tmp_path):
    for name, started, data in (("a", "2025-01-01", "x"), ("b", "2025-01-02", "x"), ("c", "2025-01-03", "y"),
                                ("now", "2025-01-04", "x"), ("later", "2025-01-05", "x")):  # fmt: skip
        learned(tmp_path / name, [0.0, 0.2 if name == "b" else 0.4], info=replace(INFO, started=started))
        (tmp_path / name / "args.yaml").write_text(f"data: {data}.yaml\nmodel: m.pt\n", encoding="utf-8")
        summarize(tmp_path / name).save(tmp_path / name / "stability.json")
    assert summarize(tmp_path / "now").earlier.model_dump() == {"name": "b", "metric": "mAP50", "best": 0.3}
    assert summarize(tmp_path / "a").earlier is None
    (tmp_path / "b" / "stability.json").write_text("{", encoding="utf-8")
    assert summarize(tmp_path / "now").earlier.name == "a", "one that cannot be read is passed over"


def test_a_validation_set_without_objects_says_nothing_of_the_model(tmp_path):
    zeros = "epoch,metrics/mAP50(B),metrics/mAP50-95(B)\n" + "".join(f"{epoch},0,0\n" for epoch in range(1, 10))
    run = write(tmp_path, 90, info=replace(INFO, validation_objects=0))
    (run / "results.csv").write_text(zeros, encoding="utf-8")
    assert "accuracy is not known: the validation set has no object" in summarize(run).headline


def test_zeros_of_epochs_that_were_not_validated_say_nothing(tmp_path):
    learned(tmp_path, [*[0.0] * 11, 0.5])
    (tmp_path / "args.yaml").write_text("val: false\n", encoding="utf-8")
    summary = summarize(tmp_path)
    assert (summary.learned, summary.accuracy.best_epoch) == ("unknown", 12)
    learned(tmp_path / "running", [0.0] * 12, info=replace(INFO, finished=""))
    (tmp_path / "running" / "args.yaml").write_text("val: false\n", encoding="utf-8")
    assert summarize(tmp_path / "running").accuracy is None


def test_a_jump_by_a_million_is_in_the_headline_although_clipping_bore_it(tmp_path):
    def change(step):
        return {21: row(21, loss=3e9), 25: clipped(25, 9e6)}.get(step, row(step))

    summary = summarize(write(tmp_path / "a", 30, change))
    assert (summary.health, summary.spike.what, summary.spike.step, summary.spike.epoch) == ("healthy", "loss", 21, 3)
    assert summary.headline == (
        "Healthy: 30 steps, none skipped. The loss jumped to 3.0e+09 at step 21 (epoch 3), 4e+07 times its usual value."
    )
    small = summarize(write(tmp_path / "b", 30, lambda n: clipped(25, 2e6) if n == 25 else row(n)))
    assert small.spike is None, "half a million times"
    borne = summarize(write(tmp_path / "d", 30, lambda n: clipped(25, 3.6e7) if n == 25 else row(n)))
    assert (borne.health, borne.spike.what, borne.spike.name) == ("healthy", "gradient norm", "grad_norm")
    told = "The gradient norm jumped to 3.6e+07 at step 25 (epoch 3), 9e+06 times its usual value."
    assert borne.headline == f"Healthy: 30 steps, none skipped. {told}"
    assert " ".join(table(borne).split()).startswith(f"{borne.headline} steps 30 applied, 1 clipped")
    assert markdown(borne).splitlines()[0] == f"## {borne.headline}"
    fallen = summarize(write(tmp_path / "c", 30, lambda n: row(n, loss=1e-9, grad_norm=0.0) if n > 9 else row(n)))
    assert fallen.spike is None


def validated(run: Path, losses: list[float], **more: object) -> Summary:
    """Summarize a run that learned, with these validation losses."""
    write(run, 10 * len(losses), info=replace(INFO, epochs=len(losses), batches=10), **more)  # type: ignore[arg-type]
    fitness = [0.1 * n for n in range(len(losses))]
    (run / "results.csv").write_text(scenes.results(fitness, validation=losses), encoding="utf-8")
    return summarize(run)


def test_a_validation_loss_that_jumps_by_a_million_is_in_the_headline(tmp_path):
    jumped = validated(tmp_path / "a", [4, 4, 2.8e23, 4, 3, 3, 3])
    assert (jumped.learned, jumped.spike) == ("yes", None)
    assert jumped.validation_spike.model_dump() == {
        "what": "validation loss", "name": "val/box_loss", "epoch": 3, "step": 0, "value": 2.8e23, "times": 7e22
    }  # fmt: skip
    told = " The validation loss jumped to 2.8e+23 in epoch 3 (val/box_loss), 7e+22 times its usual value."
    assert jumped.headline == f"Healthy: 70 steps, none skipped; mAP50 0.9.{told}"
    both = validated(tmp_path / "b", [4, 4, 2.8e23, 4, 3], change=lambda n: row(n, loss=3e9) if n == 21 else row(n))
    assert "The loss jumped to 3.0e+09 at step 21 (epoch 3)" in both.headline
    assert both.headline.endswith(told)


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([2.8e23, 4, 3, 3], id="the first epoch has none before it"),
        pytest.param([0, 0, 2.8e23, 3], id="0 is no usual value"),
        pytest.param([4, 4, 3e6, 3], id="less than a million times"),
        pytest.param([4, 4, INF, NAN], id="not finite is another matter"),
    ],
)
def test_what_is_no_jump_of_a_validation_loss(tmp_path, losses):
    summary = validated(tmp_path, losses)
    assert summary.validation_spike is None
    assert "jumped" not in summary.headline


def test_a_validation_loss_of_0_does_not_hide_what_was_usual(tmp_path):
    assert validated(tmp_path, [4, 0, 0, 0, 2.8e23, 3]).validation_spike.times == 7e22


def test_a_summary_of_an_earlier_version_is_read(tmp_path):
    values = json.loads(summarize(write(tmp_path, 9)).model_dump_json())
    for name in ("learned", "reasons", "accuracy", "spike", "validation_spike", "lowered_rate"):
        del values[name]
    del values["steps"]["undone"]
    (tmp_path / "stability.json").write_text(json.dumps({**values, "schema_version": 2}))
    old = Summary.load(tmp_path / "stability.json")
    assert (old.schema_version, old.learned, old.steps.undone) == (2, "unknown", 0)


def test_yaml_says_the_same(tmp_path):
    summary = build(write(tmp_path, 30, lambda step: bad(step) if step == 9 else row(step), [incident(9)]), plot=False)
    text = (tmp_path / "stability.yaml").read_text(encoding="utf-8")
    assert Summary.model_validate(yaml.safe_load(text)) == summary
    assert summary.files[:2] == ["stability.json", "stability.yaml"]


def test_a_run_that_ran_away_is_said_to(tmp_path):
    found = [incident(21, kind="diverging"), incident(21, kind="lr_backoff")]
    run = write(tmp_path, 30, lambda step: bad(step) if step > 18 else row(step), found)
    assert summarize(run).headline.startswith("Diverged at epoch 3; lower lr0. 12 steps in a row skipped")


def lowered(run: Path, *found: Incident, arguments: str = "lr0: 0.1\noptimizer: AdamW\n", **more: object) -> Summary:
    """Summarize a run of 90 steps whose learning rate was lowered."""
    write(run, 90, incidents=list(found), **more)  # type: ignore[arg-type]
    (run / "args.yaml").write_text(arguments, encoding="utf-8")
    return summarize(run)


def limited(step: int = 4, factor: float = 0.0144) -> Incident:
    return Incident("lr_backoff", 1, step, step, remedies=("lr_lowered",), cause="learning_rate",
                    lr_factor=factor, update_ratio=0.09)  # fmt: skip


def test_a_rate_that_was_lowered_is_named_once_where_the_model_did_not_learn(tmp_path):
    zeros = "epoch,metrics/mAP50(B),metrics/mAP50-95(B)\n" + "".join(f"{epoch},0,0\n" for epoch in range(1, 10))
    (tmp_path / "results.csv").write_text(zeros, encoding="utf-8")
    one = lowered(tmp_path, limited(), arguments="lr0: 0.3\noptimizer: AdamW\n")
    assert one.headline.startswith("Did not learn: mAP50 0 after 9 epochs")
    assert one.headline.count("too high") == 1
    assert "lr0=0.3 was too high for this model: lowered to 0.0043 at step 4" in one.headline
    assert "rate_too_high" in [reason.reason for reason in one.reasons], "the reason is on record"


def test_a_rate_that_a_callback_had_set_is_named_and_not_lr0(tmp_path):
    one = lowered(tmp_path, limited(), arguments="lr0: 0.001\noptimizer: AdamW\n")
    assert one.headline.startswith("Survived: a learning rate of 0.01 was too high for this model: lowered to 0.00014")


def test_a_rate_that_was_limited_in_time_is_the_headline(tmp_path):
    one = lowered(tmp_path / "a", limited())
    assert one.headline == "Survived: lr0=0.1 was too high for this model: lowered to 0.0014 at step 4."
    assert one.lowered_rate.model_dump() == {"epoch": 1, "step": 4, "before": 0.1, "after": pytest.approx(0.00144),
                                             "is_lr0": True, "moved_too_far": True, "times": 1}  # fmt: skip
    evidence = one.advice[0].evidence
    assert "moved by 9% of their size in one step at step 4 (epoch 1)" in evidence
    assert "ran away" not in evidence, "it was limited before that"
    two = lowered(tmp_path / "b", limited(), limited(9, 0.001))
    assert two.headline.endswith("lowered to 0.0001 at step 9, the last of 2 times.")
    auto = lowered(tmp_path / "c", limited(), arguments="lr0: 0.1\noptimizer: auto\n")
    assert auto.headline.startswith("Survived: a learning rate of 0.01 was too high"), "lr0 was not in force"
    failed = lowered(tmp_path / "d", limited(), info=replace(INFO, error="OutOfMemoryError: no memory"))
    assert failed.headline.startswith("Failed at epoch 9: OutOfMemoryError"), "it did not diverge"


def test_what_follows_from_a_validation_is_one_incident(tmp_path):
    back = Incident("rollback", 3, 24, 4, place="validation", remedies=("rolled_back",), steps_lost=14, snapshot=10,
                    undone=14)  # fmt: skip
    lower = Incident("lr_backoff", 3, 24, 4, place="validation", remedies=("lr_lowered",), lr_factor=0.1)

    def change(step):
        return row(step, lr=0.01 if step > 24 else 0.1, lr_factor=0.1 if step > 24 else 1.0)

    found = lowered(tmp_path / "a", back, lower, change=change)
    assert found.headline == (
        "Survived: training ran away with lr0=0.1: lowered to 0.01 at step 24; 14 of 90 steps were lost."
    )
    assert (found.advice[0].title, found.advice[0].arguments) == ("Lower the learning rate.", "lr0=0.01")
    image = incident(24, cause="image", images=["/data/a.jpg"])
    apart = lowered(tmp_path / "b", image, back, lower)
    assert apart.headline.startswith("Survived 2 incidents: none of 90 steps was skipped, 14 undone; training ran away")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"cause": "image", "images": ["/data/a.jpg"]}, "a broken image (a.jpg)"),
        ({"cause": "label", "images": ["/data/a.jpg", "/data/b.jpg"]}, "broken labels of 2 images"),
        ({"cause": "loss", "term": "box_loss"}, "a loss that was not finite (box_loss)"),
        ({"cause": "loss", "source": "my_loss.py:7", "term": "x"}, "a loss that was not finite (my_loss.py:7)"),
        ({"cause": "precision", "failed_in": "fp16"}, "an overflow of low precision (fp16)"),
        ({"cause": "transient"}, "a fault that did not happen again"),
    ],
)
def test_one_cause_is_named_in_the_headline(tmp_path, facts, said):
    found = [incident(step, **{"images": [], **facts}) for step in (5, 9)]
    run = write(tmp_path, 30, lambda step: bad(step) if step in (5, 9) else row(step), found)
    assert summarize(run).headline == f"Survived: {said} cost 2 of 30 steps."


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}'])
def test_load_refuses_what_is_not_a_summary(tmp_path, text):
    (tmp_path / "stability.json").write_text(text)
    with pytest.raises(ReportError, match=r"stability\.json"):
        Summary.load(tmp_path / "stability.json")


def test_build_lists_what_it_wrote(tmp_path):
    summary = build(write(tmp_path, 3))
    assert summary.files[:4] == ["stability.html", "stability.png", "stability.json", "stability.yaml"]
    assert all((tmp_path / file).is_file() for file in summary.files)
    assert strict(tmp_path / "stability.json")["files"] == summary.files
    assert not list(tmp_path.rglob("*.part"))


def test_models_mirror_the_records():
    assert set(Run.model_fields) == {field.name for field in fields(RunInfo)}
    assert {field.name for field in fields(Incident)} <= set(IncidentEntry.model_fields)


def test_schema_describes_every_field():
    schema = Summary.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        for name, field in part["properties"].items():
            assert field.get("description"), f"{part['title']}.{name}"


def test_long_run(tmp_path):
    def change(step):
        return clipped(step, 1e6, epoch=78) if step == 77_777 else row(step, 1000)

    run = write(tmp_path, 100_000, change)
    start = time.perf_counter()
    summary = summarize(run)
    assert time.perf_counter() - start < 20
    assert (summary.steps.total, len(summary.epochs), summary.grad_norm.max) == (100_000, 100, 1e6)


def test_the_trainer_is_never_imported(tmp_path):
    write(tmp_path, 30)
    code = """
import sys
import yolo_gradsafe.report
assert not {"polars", "matplotlib", "pydantic"} & set(sys.modules), "importing the package is not light"
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.report import build
from pathlib import Path
summarize(Path(sys.argv[1]))
assert "matplotlib" not in sys.modules
build(Path(sys.argv[1]))
assert not {"torch", "ultralytics", "cv2", "matplotlib.pyplot"} & set(sys.modules)
ours = {name for name in sys.modules if name.startswith("yolo_gradsafe.")}
parts = tuple(f"yolo_gradsafe.{part}" for part in ("report", "judge", "telemetry"))
assert all(name.startswith(parts) for name in ours), ours
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])


def test_median_is_not_moved_by_nan(tmp_path):
    norm = summarize(write(tmp_path, 5, lambda step: row(step, grad_norm=NAN if step == 5 else float(step)))).grad_norm
    assert norm.median == 2.5
    assert not math.isnan(norm.max)
