"""Each rule of advice: a run that gives it, with its numbers, and one much like it that does not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.report import scenes
from tests.report.runs import INFO, bad, incident, overflow, row, write
from yolo_gradsafe.config import Config
from yolo_gradsafe.report.advice import RULES, Facts, advise
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.report.records import read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.report.summary import Summary
from yolo_gradsafe.telemetry import Incident, Recorder, RunPaths, StepRow
from yolo_gradsafe.telemetry.schema import LayerRow, Shortfall

ARGUMENTS = {
    "lr0": 0.01,
    "optimizer": "AdamW",
    "warmup_epochs": 3.0,
    "epochs": 30,
    "close_mosaic": 10,
    "data": "d.yaml",
}


def given(folder: Path, arguments: dict[str, object] | None = None, **run: object) -> dict[str, Advice]:
    """Write a run, and return its advice by rule."""
    write(folder, **run)  # type: ignore[arg-type]
    (folder / "args.yaml").write_text(yaml.safe_dump(ARGUMENTS | (arguments or {})), encoding="utf-8")
    return {advice.rule: advice for advice in summarize(folder).advice}


def norms(size: float, limit: float = 10.0, **changes: object) -> Callable[[int], StepRow]:
    """Return steps whose norms scatter around a size, clipped at a limit."""

    def change(step: int) -> StepRow:
        norm = size * random.Random(step).uniform(0.8, 1.2)
        clip = {"clip_scale": limit / norm, "verdict": "clipped"} if norm > limit else {}
        return row(step, grad_norm=norm, threshold=limit, **{**clip, **changes})

    return change


def event(step: int, kind: str, **changes: object) -> Incident:
    return incident(step, kind=kind, **changes)


# The clip threshold


def test_threshold_far_below_the_norms(tmp_path):
    trouble = [event(250, "norm_overflow")]
    assert "clip_below" not in given(tmp_path / "healthy", steps=300, change=norms(400)), "nothing is to be mended"
    hot = given(tmp_path / "hot", steps=300, change=norms(400), incidents=[event(9, "lr_backoff")])
    assert "clip_below" not in hot, "norms at a rate that is too high say nothing"
    advice = given(tmp_path / "a", steps=300, change=norms(400), incidents=trouble)["clip_below"]
    assert "100 % of the steps" in advice.evidence
    limit = Config.load(yaml.safe_load(advice.options)).clip.max_norm
    assert 440 < limit < 480
    assert not advice.arguments  # AdamW's steps do not grow with the threshold
    unlearnt = unlearned(tmp_path / "zero", {"lr0": 0.001}, change=norms(400, lr=0.001), info=SGD, incidents=trouble)
    assert unlearnt.keys() == {"slow"}, "the norms of a model that does not learn say nothing either"
    sgd_info = replace(INFO, optimizer="SGD")
    sgd = given(tmp_path / "b", steps=300, change=norms(400), info=sgd_info, incidents=trouble)["clip_below"]
    assert sgd.arguments == "lr0=0.00025"
    assert "clip_below" not in given(
        tmp_path / "c", steps=300, change=norms(100), incidents=trouble
    )  # stock's 10 is common there
    assert "clip_below" not in given(
        tmp_path / "d", steps=300, change=norms(400), options="clip: {mode: none}", incidents=trouble
    )


def test_norms_that_grow_without_end_have_no_range(tmp_path):
    def growing(step):
        return row(step, grad_norm=10.0 ** (step / 10), clip_scale=1e-3, verdict="clipped", threshold=10.0,
                   stages={"norm/backbone": math.inf, "norm/neck": 1.0})  # fmt: skip

    given_up = given(tmp_path, steps=300, change=growing, incidents=[event(250, "norm_overflow")])
    assert not {"clip_below", "stage_dominates"} & set(given_up)


def test_threshold_far_above_the_norms_lets_outliers_pass(tmp_path):
    def spiky(step):
        return row(step, grad_norm=0.5, verdict="spike") if step % 150 == 0 else norms(0.02)(step)

    options = "clip: {mode: norm, max_norm: 10.0}"
    advice = given(tmp_path / "a", steps=400, change=spiky, options=options)["clip_above"]
    assert "2 outliers passed" in advice.evidence
    assert 0.02 < Config.load(yaml.safe_load(advice.options)).clip.max_norm < 0.03
    assert "clip_above" not in given(tmp_path / "b", steps=400, change=norms(0.02), options=options)
    assert "clip_above" not in given(tmp_path / "c", steps=400, change=norms(5), options=options)


# Mixed precision


@pytest.mark.parametrize(("version", "argument"), [("8.4.190", "amp=bf16"), ("8.4.80", "amp=False"), ("", "amp=False")])
def test_overflows_that_do_not_stop(tmp_path, version, argument):
    info = replace(INFO, amp="fp16", environment={"ultralytics": version})

    def change(step):
        return overflow(step) if step > 100 and step % 20 == 0 else row(step, amp_scale=1024.0)

    advice = given(tmp_path, steps=500, change=change, info=info)["amp_overflow"]
    assert advice.arguments == argument
    assert "20 steps (5.0 %)" in advice.evidence


def test_overflows_of_the_search_for_a_scale_are_routine(tmp_path):
    info = replace(INFO, amp="fp16")

    def change(step):
        return overflow(step) if step < 20 or step == 2000 else row(step, amp_scale=1024.0)

    assert given(tmp_path, steps=2500, change=change, info=info) == {}


def test_precision_that_had_to_be_raised(tmp_path):
    info = replace(INFO, amp="fp16", environment={"ultralytics": "8.4.190"})
    advice = given(tmp_path, steps=100, info=info, incidents=[event(42, "precision")])["amp_overflow"]
    assert advice.arguments == "amp=bf16"
    assert "epoch 5" in advice.evidence


# The learning rate


def rising(step: int, until: int = 30) -> float:
    return 0.01 * min(1.0, step / until) * (1 - step / 1000)


def test_learning_rate_too_high(tmp_path):
    def change(step):
        return row(step, lr=rising(step) * (0.1 if step > 150 else 1), lr_factor=0.1 if step > 150 else 1.0)

    found = [event(150, "diverging"), event(150, "lr_backoff"), event(190, "diverging")]
    advice = given(tmp_path / "a", steps=300, change=change, incidents=found)["lr_too_high"]
    assert advice.arguments == "lr0=0.001"
    assert "2 times, first at step 150 (epoch 15)" in advice.evidence
    assert "went on at 0.001, which is 0.1 of the rate" in advice.evidence
    auto = given(tmp_path / "b", {"optimizer": "auto"}, steps=300, change=change, incidents=found)["lr_too_high"]
    assert auto.arguments.startswith("optimizer=AdamW lr0=0.0009")
    bad_data = given(tmp_path / "c", steps=300, change=lambda n: row(n, lr=rising(n)), incidents=[incident(150)])
    assert not {"lr_too_high", "warm_up_short", "muon"} & set(bad_data)


def test_warm_up_too_short(tmp_path):
    def change(step):
        return row(step, lr=rising(step))

    early = [event(12, "diverging"), event(20, "diverging")]
    advice = given(tmp_path / "a", steps=300, change=change, incidents=early)
    assert advice["warm_up_short"].arguments == "warmup_epochs=6"
    assert "lr_too_high" not in advice

    def backed_off(step):
        return row(step, lr=rising(step) * (0.1 if step > 12 else 1), lr_factor=0.1 if step > 12 else 1.0)

    lowered = given(tmp_path / "c", steps=300, change=backed_off, incidents=early)
    assert "warm_up_short" not in lowered  # it held because the rate was low
    assert lowered["lr_too_high"].arguments == "lr0=0.001"
    late = given(tmp_path / "b", steps=300, change=change, incidents=[*early, event(200, "diverging")])
    assert "warm_up_short" not in late
    assert "lr_too_high" in late


def test_muon_is_not_limited_by_clipping(tmp_path):
    info = replace(INFO, optimizer="MuSGD")
    found = given(tmp_path / "a", steps=300, change=lambda n: row(n, lr=rising(n)), info=info,
                  incidents=[event(200, "diverging")])  # fmt: skip
    assert found["muon"].arguments == "lr0=0.003"
    assert "lr_too_high" not in found
    assert "muon" not in given(tmp_path / "b", steps=300, info=info)


# Batch normalisation and layers


def test_statistics_that_lag_advise_a_rate_at_which_they_follow(tmp_path):
    found = [event(32, "batchnorm_lag", epoch=4, place="validation", remedies=["batchnorm_momentum_raised"])]
    advice = given(tmp_path / "a", steps=96, incidents=found)["batchnorm_lag"]
    assert advice.arguments == "lr0=0.003"
    assert "In epoch 4 the validation loss was far too large" in advice.evidence
    assert "batchnorm_lag" not in given(tmp_path / "b", steps=96, incidents=[event(32, "validation")])


def test_batch_norm_that_is_poisoned_again_and_again(tmp_path):
    found = [
        event(n, "healed", tensors=["model/model.3.bn.running_var on rank 1"], layer="model.3") for n in (10, 20, 30)
    ]
    advice = given(tmp_path / "a", steps=100, incidents=found, info=replace(INFO, amp="fp16"))["batchnorm_poisoned"]
    assert "3 steps, most often in model.3" in advice.evidence
    assert advice.arguments == "amp=False"
    assert given(tmp_path / "b", steps=100, incidents=found)["batchnorm_poisoned"].title.startswith("Check model.3")
    named = [replace(one, cause="image") for one in found]
    checked = given(tmp_path / "e", steps=100, incidents=named)["batchnorm_poisoned"]
    assert checked.command == "gradsafe check d.yaml"
    assert "batchnorm_poisoned" not in given(tmp_path / "c", steps=100, incidents=found[:2])
    others = [event(n, "poisoned", place="state", tensors=["model.0.conv.weight"]) for n in range(5)]
    assert "batchnorm_poisoned" not in given(tmp_path / "d", steps=100, incidents=others)


@pytest.mark.parametrize(("before", "after", "dead"), [(1.0, 0.0, True), (0.0, 0.0, False), (1.0, 1e-9, False)])
def test_layer_that_died(tmp_path, before, after, dead):
    write(tmp_path, 60)
    recorder = Recorder(tmp_path).start(resume=True)
    for epoch in range(1, 7):
        norm = before if epoch < 4 else after
        recorder.layers([LayerRow(epoch, "model.7", "neck", 10, norm, norm, norm, norm, 0.1, 0.1)])
    found = {advice.rule: advice for advice in summarize(tmp_path).advice}
    assert ("layer_dead" in found) is dead
    if dead:
        assert "model.7 had no gradient at all after epoch 3" in found["layer_dead"].evidence
        assert found["layer_dead"].arguments == "lr0=0.005"


# A model that did not learn


UNLEARNED = replace(INFO, epochs=12, batches=10, objects=90, validation_objects=30)


def unlearned(folder: Path, *asked: object, **run: object) -> dict[str, Advice]:
    """Return the advice of ``did_not_learn`` by rule."""
    return {advice.rule: advice for advice in did_not_learn(folder, *asked, **run).advice}  # type: ignore[arg-type]


def did_not_learn(
    folder: Path,
    arguments: dict[str, object] | None = None,
    fitness: float | list[float] = 0.0,
    validation: float | list[float] | None = None,
    train: list[float] | None = None,
    **run: object,
) -> Summary:
    """Write a run of 12 epochs whose accuracy stays where it is, unless it is given epoch by epoch."""
    write(folder, **{"steps": 120, "info": UNLEARNED, **run})  # type: ignore[arg-type]
    scores = fitness if isinstance(fitness, list) else [fitness] * 12
    losses = [validation] * 12 if isinstance(validation, float) else validation
    (folder / "results.csv").write_text(scenes.results(scores, train, losses), encoding="utf-8")
    (folder / "args.yaml").write_text(yaml.safe_dump(ARGUMENTS | (arguments or {})), encoding="utf-8")
    return summarize(folder)


def test_a_rate_that_the_user_lowered_as_well_is_the_one_that_held(tmp_path):
    def change(step):
        scheduled = 0.3 if step < 40 else 0.09 if step < 80 else 0.002
        factor = 1.0 if step < 3 else min(1.0, 0.0015 / scheduled)
        return row(step, lr=scheduled * factor, lr_factor=factor)

    found = [event(2, "diverging"), event(2, "lr_backoff")]
    advice = unlearned(tmp_path, {"lr0": 0.3}, change=change, incidents=found)["lr_too_high"]
    assert advice.arguments == "lr0=0.0015"
    assert advice.evidence.endswith("Training went on at 0.0015 at most.")


def test_rate_that_no_model_learns_with(tmp_path):
    hot = unlearned(tmp_path / "a", {"lr0": 0.3}, change=lambda n: row(n, lr=0.3))
    assert hot.keys() == {"rate_too_high"}
    assert hot["rate_too_high"].arguments == "lr0=0.002"
    assert hot["rate_too_high"].evidence == "lr0=0.3 is too high."
    ran_away = [event(80, "diverging"), event(80, "lr_backoff")]
    told = unlearned(tmp_path / "b", {"lr0": 0.3}, change=lambda n: row(n, lr=0.3), incidents=ran_away)
    assert told.keys() == {"lr_too_high"}, "one rule names the rate"
    assert "rate_too_high" not in unlearned(tmp_path / "c")


SGD = replace(UNLEARNED, optimizer="SGD")


def pace(lr: float, ratio: float) -> Callable[[int], StepRow]:
    """Return steps at a rate, the fourth of which moved the weights furthest."""
    return lambda step: row(step, lr=lr, update_ratio=ratio if step == 5 else ratio / 3)


def test_weights_that_moved_as_in_a_clean_run_need_more_pace_or_more_time(tmp_path):
    low = unlearned(tmp_path / "a", {"lr0": 0.001}, validation=4.3, change=pace(0.001, 0.0012), info=SGD)
    assert low.keys() == {"slow"}
    assert low["slow"].title == "Raise the learning rate, or train for longer."
    assert low["slow"].arguments == "lr0=0.01"
    assert low["slow"].evidence == (
        "The validation loss did not change: the model predicts the same for every image. A step moved the weights by "
        "0.12 % of their size at most, as in any clean run, so the guard left the learning rate alone. The learning "
        "rate was 0.001 at most; 0.01 is usual."
    )
    usual = unlearned(tmp_path / "b", change=pace(0.01, 0.018), info=SGD)
    assert usual.keys() == {"slow"}
    assert (usual["slow"].arguments, usual["slow"].command) == ("epochs=36", "gradsafe check d.yaml")
    assert "1.8 % of their size at most" in usual["slow"].evidence
    short = unlearned(tmp_path / "f", {"lr0": 0.01}, change=pace(0.0078, 0.018), info=SGD)
    assert short["slow"].arguments == "epochs=36", "lr0 is the usual one, which a short schedule does not reach"
    noisy = unlearned(tmp_path / "c", fitness=0.03, change=pace(0.02, 0.018), info=SGD)
    assert noisy["slow"].arguments == "epochs=36"
    running = replace(SGD, finished="", epochs=20)
    going = unlearned(tmp_path / "d", change=pace(0.01, 0.018), info=running)["slow"]
    assert (going.title[:15], going.arguments) == ("Let it train on", "")
    auto = unlearned(tmp_path / "e", {"optimizer": "auto"}, change=pace(0.001, 0.0012), info=SGD)["slow"]
    assert auto.arguments == "epochs=36", "Ultralytics chose the rate"


def test_a_rate_below_the_usual_is_named_where_the_movement_is_not_known(tmp_path):
    low = unlearned(tmp_path / "a", {"lr0": 0.001}, validation=4.3, change=lambda n: row(n, lr=0.001), info=SGD)
    assert (low.keys(), low["slow"].arguments) == ({"slow"}, "lr0=0.01")
    assert "moved the weights" not in low["slow"].evidence
    unknown = unlearned(tmp_path / "b", validation=4.3, change=lambda n: row(n, lr=0.01), info=SGD)
    assert unknown.keys() == {"never_rose"}, "that the model predicts the same everywhere does not say why"


@pytest.mark.parametrize("ratio", [0.2, 0.05])
def test_weights_that_moved_further_than_in_any_clean_run_need_a_lower_rate(tmp_path, ratio):
    hot = unlearned(tmp_path, {"lr0": 0.001}, validation=4.3, change=pace(0.001, ratio), info=SGD)
    assert hot.keys() == {"rate_too_high"}
    assert hot["rate_too_high"].arguments == "lr0=0.0003"


def test_statistics_that_lagged_are_not_a_matter_of_pace(tmp_path):
    lagged = [event(32, "batchnorm_lag", epoch=4, place="validation", remedies=["batchnorm_momentum_raised"])]
    told = unlearned(tmp_path, change=pace(0.01, 0.018), info=SGD, incidents=lagged)
    assert told.keys() == {"batchnorm_lag"}


def test_a_validation_that_fails_in_the_users_own_code_says_nothing_of_the_rate(tmp_path):
    own = [event(n, "bad_batch", cause="activations", source="own.py:8", layer="model.9") for n in (20, 40)]
    told = unlearned(
        tmp_path / "a", validation=math.nan, change=lambda n: bad(n) if n in (20, 40) else row(n), incidents=own
    )
    assert "own_code" in told
    assert "rate_too_high" not in told
    assert "rate_too_high" in unlearned(tmp_path / "b", validation=math.nan)


def test_a_validation_loss_that_is_not_the_weights_fault_is_left_out_of_the_judgement(tmp_path):
    ours = [Incident("validation", 1, 10, 10, place="validation", term="val/cls_loss, val/dfl_loss")]
    told = did_not_learn(tmp_path / "a", validation=math.inf, incidents=ours)
    assert "validation_loss" in [reason.reason for reason in told.reasons], "val/box_loss is inf as well"
    assert told.reasons[0].names == ["box_loss"]
    both = [replace(ours[0], term="val/box_loss, val/cls_loss")]
    told = did_not_learn(tmp_path / "b", validation=math.inf, incidents=both)
    assert [reason.reason for reason in told.reasons] == ["never_rose"]
    assert not any("lr0" in advice.arguments for advice in told.advice)
    assert did_not_learn(tmp_path / "c", validation=math.inf).reasons[0].names == ["box_loss", "cls_loss"]


def test_rate_that_moves_nothing(tmp_path):
    def still(ratio):
        def change(step):
            return row(step, lr=1e-7)

        run = tmp_path / f"{ratio}"
        info = replace(INFO, epochs=12, batches=10, objects=90, validation_objects=30)
        write(run, 120, change, info=info)
        recorder = Recorder(run).start(resume=True)
        recorder.layers([LayerRow(epoch, "model.7", "neck", 9, 1, 1, 1, 1, 0.1, ratio) for epoch in range(1, 13)])
        (run / "results.csv").write_text(scenes.results([0.0] * 12, [3.0] * 12), encoding="utf-8")
        (run / "args.yaml").write_text(yaml.safe_dump(ARGUMENTS | {"lr0": 1e-7}), encoding="utf-8")
        return {advice.rule: advice for advice in summarize(run).advice}

    advice = still(3e-6)
    assert "rate_too_high" not in advice, "a lower one would be worse"
    assert advice["rate_too_low"].arguments == "lr0=0.002"
    assert "rate_too_low" not in still(1e-3)


def test_steps_that_were_skipped_are_not_too_few_epochs(tmp_path):
    loss = [event(n, "bad_batch", cause="loss", source="own.py:3") for n in range(20, 121)]
    told = unlearned(tmp_path, change=lambda n: row(n) if n < 20 else bad(n), incidents=loss)
    assert "own_code" in told
    assert not {"too_few_steps", "never_rose", "rate_too_high"} & set(told)


def test_too_few_steps_because_of_accumulation(tmp_path):
    info = replace(INFO, epochs=25, batches=2, batch=4, objects=20, validation_objects=30)

    def few(step):
        return row(step, epoch=2 * step, batch=2)

    write(tmp_path, 13, few, info=info)
    (tmp_path / "results.csv").write_text(scenes.results([0.0] * 25), encoding="utf-8")
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(ARGUMENTS | {"nbs": 64}), encoding="utf-8")
    (advice,) = summarize(tmp_path).advice
    assert advice.rule == "too_few_steps"
    assert advice.arguments == "nbs=4 epochs=50"
    assert "13 optimizer steps in 25 epochs" in advice.evidence


def test_no_object_is_assigned(tmp_path):
    def zero(step):
        return row(step, items={"box_loss": 0.0, "cls_loss": 3.0, "dfl_loss": 0.0})

    advice = unlearned(tmp_path / "a", change=zero)["loss_zero"]
    assert advice.evidence == "box_loss and dfl_loss were exactly 0 in all steps, although there are 90 objects."
    assert advice.command == "gradsafe check d.yaml"
    assert "loss_zero" not in unlearned(tmp_path / "b", {"box": 0, "dfl": 0}, change=zero), "the user switched them off"


def test_a_branch_that_the_loss_does_not_reach(tmp_path):
    def starved(step):
        now = row(step)
        return replace(now, stages={"norm/head.box": now.grad_norm, "norm/head.class": 7e-5 * now.grad_norm})

    advice = unlearned(tmp_path / "a", {"cls": 1e-5}, change=starved)
    assert next(iter(advice)) == "branch_silent"
    assert advice["branch_silent"].arguments == "cls=0.5"
    assert unlearned(tmp_path / "b", {"cls": 0.5}, change=starved)["branch_silent"].arguments == ""
    assert "branch_silent" not in unlearned(tmp_path / "c", {"cls": 0}, change=starved), "the user switched it off"


def test_training_and_validation_apart(tmp_path):
    write(tmp_path, 120, info=replace(INFO, epochs=12, batches=10, objects=90, validation_objects=30))
    train, validation = [4 - 0.3 * n for n in range(12)], [3 + 0.1 * n for n in range(12)]
    (tmp_path / "results.csv").write_text(scenes.results([0.0] * 12, train, validation), encoding="utf-8")
    (advice,) = summarize(tmp_path).advice
    assert advice.rule == "overfitting"


def test_accuracy_that_never_rose_for_no_reason_on_record(tmp_path):
    advice = unlearned(tmp_path)
    assert advice.keys() == {"never_rose"}
    assert advice["never_rose"].command == "gradsafe check d.yaml"


def most_skipped(step: int) -> StepRow:
    return bad(step) if step > 20 and step % 5 else row(step)


def skipped_for(cause: str, **more: object) -> list[Incident]:
    return [event(n, "bad_batch", cause=cause, images=[], **more) for n in range(21, 121) if n % 5]


@pytest.mark.parametrize(
    ("cause", "more", "info", "says"),
    [
        ("", {}, {}, "gradsafe report runs/a --open"),
        ("unknown", {}, {}, "gradsafe report runs/a --open"),
        ("transient", {}, {}, "Check the hardware"),
        ("activations", {"source": "ultralytics/nn/x.py:3"}, {}, "lr0=0.002"),
        ("weights", {}, {}, "lr0=0.002"),
        ("outlier", {}, {}, "lr0=0.002"),
        ("precision", {}, {}, "amp=False"),
        ("precision", {}, {"amp": "bf16"}, "amp=False"),
        ("image", {}, {}, "gradsafe check d.yaml"),
        ("label", {}, {}, "gradsafe check d.yaml"),
    ],
)
def test_steps_that_were_skipped_say_what_to_change_whatever_the_cause(tmp_path, cause, more, info, says):
    told = did_not_learn(
        tmp_path,
        {"save_dir": "runs/a"},
        change=most_skipped,
        incidents=skipped_for(cause, **more),
        info=replace(UNLEARNED, **info),
    )
    assert told.reasons[0].reason == "steps_skipped"
    first = told.advice[0]
    assert first.rule == "steps_skipped"
    assert says in f"{first.title} {first.arguments} {first.command}"


def test_a_rule_that_knows_more_of_skipped_steps_speaks_alone(tmp_path):
    own = skipped_for("loss", source="own.py:3")
    assert "steps_skipped" not in unlearned(tmp_path / "a", change=most_skipped, incidents=own)
    images = [replace(one, images=["/data/a.jpg"]) for one in skipped_for("image")]
    assert unlearned(tmp_path / "b", change=most_skipped, incidents=images).keys() == {"broken_images"}


@pytest.mark.parametrize(
    ("batches", "warm_up", "arguments"),
    [
        (20, 500, "warmup_epochs=1"),
        (10, 500, "warmup_epochs=1 epochs=20"),
        (5, 100, "epochs=40"),  # Ultralytics warms up for 100 batches at least
    ],
)
def test_a_warm_up_longer_than_the_training(tmp_path, batches, warm_up, arguments):
    info = replace(UNLEARNED, batches=batches, warmup_batches=warm_up)
    advice = unlearned(tmp_path, {"warmup_epochs": 50}, info=info)["too_few_steps"]
    assert (advice.title, advice.arguments) == ("Let the warm-up end in time.", arguments)


def run_of(reason: Shortfall, folder: Path) -> Summary:
    """Record a run whose first reason not to have learned this is."""
    zero = {"box_loss": 0.0, "cls_loss": 3.0, "dfl_loss": 0.0}
    silent = {"norm/head.box": 4.0, "norm/head.class": 4e-6}
    runs: dict[Shortfall, dict[str, object]] = {
        Shortfall.RATE_TOO_HIGH: {"change": lambda n: row(n, lr=0.3)},
        Shortfall.RATE_TOO_LOW: {"arguments": {"lr0": 1e-7}, "change": pace(1e-7, 3e-6)},
        Shortfall.STEPS_SKIPPED: {"change": most_skipped},
        Shortfall.TOO_FEW_STEPS: {"steps": 13, "change": lambda n: row(n, epoch=n, batch=10)},
        Shortfall.LOSS_ZERO: {"change": lambda n: row(n, items=zero)},
        Shortfall.BRANCH_SILENT: {"change": lambda n: row(n, grad_norm=4.0, stages=silent)},
        Shortfall.VALIDATION_LOSS: {"validation": math.inf},
        Shortfall.CONSTANT_PREDICTOR: {"validation": 4.3},
        Shortfall.OVERFITTING: {"train": [4 - 0.3 * n for n in range(12)], "validation": [3 + n for n in range(12)]},
        Shortfall.NEVER_ROSE: {},
        Shortfall.FELL: {"fitness": [0.6, 0.5, *[0.3] * 10]},
        Shortfall.COLLAPSED: {"fitness": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.02, 0.01, 0.0, 0.0]},
    }
    if reason is not Shortfall.LAYER_DIED:
        return did_not_learn(folder, **runs[reason])  # type: ignore[arg-type]
    did_not_learn(folder)
    rows = [LayerRow(n, "model.7", "neck", 9, x, x, x, x, 0.1, 0.01) for n, x in ((1, 1.0), (2, 0.0), (3, 0.0))]
    Recorder(folder).start(resume=True).layers(rows)
    return summarize(folder)


@pytest.mark.parametrize(
    "reason",
    sorted(set(Shortfall) - {Shortfall.TOO_SHORT, Shortfall.NOT_VALIDATED, Shortfall.GOOD_FROM_THE_START}),
    ids=str,
)
def test_each_reason_says_what_to_change(tmp_path, reason):
    told = run_of(reason, tmp_path)
    assert (told.learned, told.reasons[0].reason) == ("no", str(reason))
    assert told.advice, "nobody said what to change"
    first = told.advice[0]
    assert first.arguments or first.options or first.command or "head.class" in first.title


def test_a_healthy_run_that_learned_gets_no_advice_at_all(tmp_path):
    def shares(step):
        return stages(0.999, 0.04)(step)

    assert "stage_dominates" in given(tmp_path / "a", steps=200, change=shares)
    run = write(tmp_path / "b", 200, shares, info=replace(INFO, epochs=12))
    Recorder(run).start(resume=True).layers(
        [LayerRow(epoch, "model.7", "neck", 9, n, n, n, n, 0.1, 0.1) for epoch, n in ((1, 1.0), (2, 0.0), (3, 0.0))]
    )
    (run / "results.csv").write_text(scenes.results([0.0, 0.1, *[0.6] * 10]), encoding="utf-8")
    summary = summarize(run)
    assert (summary.learned, summary.reasons, summary.advice) == ("yes", [], [])


# The data


def test_quarantined_files(tmp_path):
    assert given(tmp_path, steps=60) == {}
    (tmp_path / "stability" / "quarantine.txt").write_text("/data/a.jpg\n/data/b.jpg\n/data/a.jpg\n", encoding="utf-8")
    advice = summarize(tmp_path).advice[0]
    assert "2 files made batches fail and were quarantined: a.jpg, b.jpg." in advice.evidence
    assert advice.command == "gradsafe check d.yaml"


def test_files_that_the_users_code_spoilt_are_not_to_be_repaired(tmp_path):
    own = [event(n, "bad_batch", cause="preprocessing", stage="transforms", images=["/data/a.jpg"]) for n in (20, 30)]
    write(tmp_path, 60, incidents=own)
    (tmp_path / "stability" / "quarantine.txt").write_text("/data/a.jpg\n", encoding="utf-8")
    assert [advice.rule for advice in summarize(tmp_path).advice] == ["own_code"]
    (tmp_path / "stability" / "quarantine.txt").write_text("/data/a.jpg\n/data/b.jpg\n", encoding="utf-8")
    advice = summarize(tmp_path).advice[-1]
    assert "1 file made batches fail and was quarantined: b.jpg." in advice.evidence


def test_broken_files_are_named_beside_those_in_quarantine(tmp_path):
    labels = [event(20 + n, "bad_batch", cause="label", images=[f"/data/{name}.jpg"]) for n, name in enumerate("abc")]
    write(tmp_path, 60, incidents=labels)
    (tmp_path / "stability" / "quarantine.txt").write_text("/data/a.jpg\n", encoding="utf-8")
    found = {advice.rule: advice for advice in summarize(tmp_path).advice}
    assert "1 file made batches fail and was quarantined: a.jpg." in found["quarantined"].evidence
    assert "b.jpg, c.jpg" in found["broken_images"].evidence
    assert "a.jpg" not in found["broken_images"].evidence


def test_accumulation_that_is_poisoned_often(tmp_path):
    def every(batches):
        def change(step):
            place = {"batch": batches * ((step - 1) % 10 + 1)}
            return bad(step, **place) if step % 20 == 0 else row(step, **place)

        return change

    advice = given(tmp_path / "a", steps=200, change=every(4))["accumulation"]
    assert "10 optimizer steps of 200 were skipped, each with 4 batches of 16: 40 batches lost." in advice.evidence
    assert advice.arguments == "nbs=16"
    most = given(tmp_path / "most", steps=60, change=lambda n: bad(n, batch=4 * n) if n > 20 else row(n, batch=4 * n))
    assert "accumulation" not in most, "it is not one batch of a window"
    options = "recovery: {isolate: auto}"
    isolating = given(tmp_path / "b", steps=200, change=every(4), options=options)["accumulation"]
    assert (isolating.options, isolating.arguments) == ("recovery: {isolate: always}", "")
    assert "accumulation" not in given(tmp_path / "c", steps=200, change=every(1))


# The stages


def stages(share: float, others: float, size: float = 50.0) -> Callable[[int], StepRow]:
    def change(step):
        now = norms(size)(step)
        parts = {"norm/head.flow": now.grad_norm * share, "norm/backbone": now.grad_norm * others}
        return replace(now, stages=parts)

    return change


def test_a_stage_that_drowns_the_others(tmp_path):
    advice = given(tmp_path / "a", steps=200, change=stages(0.999, 0.04))["stage_dominates"]
    assert Config.load(yaml.safe_load(advice.options)).clip.stages["head.flow"].max_norm == 10.0
    assert "head.flow had 99.8 %" in advice.evidence
    assert "stage_dominates" not in given(tmp_path / "b", steps=200, change=stages(0.9, 0.43))
    assert "stage_dominates" not in given(tmp_path / "c", steps=200, change=stages(0.999, 0.04, size=5.0))
    own = "clip: {mode: norm, max_norm: 10.0, stages: {head.flow: {max_norm: 5.0}}}"
    assert "stage_dominates" not in given(tmp_path / "d", steps=200, change=stages(0.999, 0.04), options=own)


def test_a_stage_that_hears_nothing(tmp_path):
    info = replace(INFO, optimizer="SGD")
    advice = given(tmp_path / "a", steps=200, change=stages(1.0, 1e-8, size=5.0), info=info)["stage_vanishes"]
    assert "backbone had 1e-08" in advice.evidence
    assert advice.arguments == "optimizer=AdamW"
    frozen = given(tmp_path / "b", steps=200, change=stages(1.0, 0.0, size=5.0), info=info)
    assert "stage_vanishes" not in frozen
    told = given(tmp_path / "c", steps=60, incidents=[event(40, "stalled", stages=["neck"])])
    assert "the gradients of neck vanished" in told["stage_vanishes"].evidence
    info = replace(INFO, optimizer="RMSProp")
    adaptive = given(tmp_path / "d", steps=200, change=stages(1.0, 1e-8, size=5.0), info=info)["stage_vanishes"]
    assert "optimizer" not in adaptive.arguments, "it scales the step of each parameter"


# The schedule


@pytest.mark.parametrize(("first", "given_"), [(201, True), (101, False)])
def test_spikes_when_mosaic_is_switched_off(tmp_path, first, given_):
    def change(step):
        return row(step, grad_norm=60.0) if first <= step < first + 10 and step % 2 else row(step)

    found = given(tmp_path, steps=300, change=change)
    assert ("close_mosaic" in found) is given_
    if given_:
        assert "5 spikes in the 2 epochs from epoch 21 on" in found["close_mosaic"].evidence
        assert found["close_mosaic"].arguments == "cos_lr=True"


# All of them


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "MuSGD"])
@pytest.mark.parametrize("size", [0.05, 4.0, 90.0])
def test_no_advice_on_a_healthy_run(tmp_path, optimizer, size):
    assert given(tmp_path, steps=300, change=norms(size), info=replace(INFO, optimizer=optimizer)) == {}


def test_no_advice_without_records(tmp_path):
    assert given(tmp_path / "none", steps=0) == {}
    assert given(tmp_path / "few", steps=3) == {}
    assert summarize(scenes.empty(tmp_path / "empty")).advice == []


def test_settings_are_ones_that_exist(tmp_path):
    from ultralytics.cfg import DEFAULT_CFG_DICT

    found = list(given(tmp_path / "a", steps=300, change=norms(400)).values())
    found += summarize(scenes.sick(tmp_path / "b")).advice
    assert len(found) >= 3
    for advice in found:
        assert advice.options or advice.arguments or advice.command or "stopped learning" in advice.title
        Config.load(yaml.safe_load(advice.options) if advice.options else None)
        assert {word.split("=")[0] for word in advice.arguments.split()} <= set(DEFAULT_CFG_DICT)


def test_a_rule_that_fails_costs_only_itself(tmp_path, monkeypatch, caplog):
    def broken(facts):
        raise ZeroDivisionError

    monkeypatch.setattr("yolo_gradsafe.report.advice.RULES", (broken, *RULES))
    run = scenes.sick(tmp_path)
    assert "broken" in caplog.text or summarize(run).advice
    rows = read_steps(RunPaths(run))
    assert advise(Facts(rows, rows.select("epoch").clear())) == []


# The user's own code


def test_a_line_that_makes_nan_is_to_be_mended(tmp_path):
    told = "my_loss.py:31: torch.sqrt, 3 of 412 inputs are 0; its gradient there is inf"
    line = {"cause": "loss", "source": "my_loss.py:31", "operation": told}
    advice = given(tmp_path / "a", steps=60, incidents=[event(20, "bad_batch", **line), event(30, "bad_batch", **line)])
    assert advice["own_code"].title.startswith("Fix my_loss.py:31: the loss")
    assert told in advice["own_code"].evidence
    assert "2 steps" in advice["own_code"].evidence
    over = given(tmp_path / "b", steps=60, incidents=[event(16, "stop", **{**line, "cause": "every_batch"})])
    assert "Every batch failed" in over["own_code"].evidence
    assert "own_code" not in given(tmp_path / "c", steps=60, incidents=[event(20, "bad_batch", cause="image")])
    theirs = event(20, "bad_batch", cause="activations", source="ultralytics/nn/modules/conv.py:87")
    assert "own_code" not in given(tmp_path / "d", steps=60, incidents=[theirs]), "that is a model that diverged"


def test_after_bf16_has_failed_it_is_not_recommended(tmp_path):
    info = replace(INFO, amp="fp16", environment={"ultralytics": "8.4.190"})
    raised = [event(2, "precision", precision="bf16", precision_before="fp16")]
    assert given(tmp_path / "a", steps=100, info=info, incidents=raised)["amp_overflow"].arguments == "amp=bf16"
    again = [*raised, event(4, "precision", precision="fp32", precision_before="bf16")]
    assert given(tmp_path / "b", steps=100, info=info, incidents=again)["amp_overflow"].arguments == "amp=False"


def test_the_rate_that_was_in_force_counts_and_not_the_argument(tmp_path):
    """A callback had raised the rate tenfold; a tenth of that held."""

    def change(step):
        return row(step, lr=0.1 * (0.1 if step > 50 else 1), lr_factor=0.1 if step > 50 else 1.0)

    found = [event(50, "diverging"), event(50, "lr_backoff")]
    advice = given(tmp_path, steps=100, change=change, incidents=found)["lr_too_high"]
    assert "The learning rate was 0.1 then, higher than lr0" in advice.evidence
    assert advice.evidence.endswith("Let it set 0.01 at most.")
    assert advice.arguments == "", "lr0 is 0.01 already: it is not what the callback sets"
    assert advice.title == "Lower the learning rate that your schedule or callback sets."
