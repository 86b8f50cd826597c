"""Each reason not to have learned: a course that gives it, and one much like it that does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from yolo_gradsafe.judge.learning import Branch, Course, EpochScore, judge_learning
from yolo_gradsafe.telemetry.schema import Finding, Learned, Shortfall

ROSE = [0.0, 0.01, 0.05, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.62, 0.63, 0.64]
FLAT = [0.0] * 12
FALLING = [4.0, 3.6, 3.2, 2.9, 2.6, 2.4, 2.2, 2.0, 1.9, 1.8, 1.7, 1.65]


def course(
    fitness: list[float], train: list[float] = FALLING, validation: list[float] | None = None, **more: Any
) -> Course:
    """Return a run of 12 epochs of 10 steps, with losses that fall unless something else is asked for."""
    validation = train if validation is None else validation
    epochs = [
        EpochScore(n, score, {"box": t / 2, "cls": t / 2}, {"box": v / 2, "cls": v / 2})
        for n, (score, t, v) in enumerate(zip(fitness, train, validation, strict=False), 1)
    ]
    values = {
        "planned": 12,
        "steps": 120,
        "batches": 120,
        "warmup_batches": 30,
        "objects": 90,
        "validation_objects": 30,
    }
    return Course(epochs, **{**values, "lr": 0.003, "lr0": 0.003, "scale_free": True, **more})


def found(one: Course) -> dict[Shortfall, Finding]:
    return {finding.reason: finding for finding in judge_learning(one).findings}


# The verdict


def test_accuracy_that_rose_is_learning_whatever_else_looks_odd():
    odd = course(ROSE, validation=[math.inf] * 12, lr=1.0, steps=13, items={"box_loss": 0.0}, dead_layers=["model.7"])
    for one in (course(ROSE), odd):
        assert judge_learning(one).learned is Learned.YES
        assert judge_learning(one).findings == ()


def test_accuracy_of_0_to_the_end_is_none():
    learning = judge_learning(course(FLAT))
    assert learning.learned is Learned.NO
    assert learning.findings == (Finding(Shortfall.NEVER_ROSE, value=0.0, limit=0.0, epoch=12),)


@pytest.mark.parametrize(
    ("fitness", "learned"),
    [
        ([0.004, 0.003, 0.004, 0.002, 0.003, 0.004], Learned.NO),  # matches by chance
        ([0.03, 0.01, 0.02, 0.0, 0.01, 0.0], Learned.NO),  # never above the first epoch's, which was little
        ([0.5, 0.2, 0.1, 0.0, 0.0, 0.0], Learned.NO),  # it could do it before
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.46], Learned.NO),  # half of it is lost
        ([0.5, 0.49, 0.48, 0.5, 0.49, 0.5], Learned.UNKNOWN),  # it could do it before, and still can
        ([0.5, 0.3, 0.49, 0.2, 0.48, 0.3], Learned.UNKNOWN),  # noise: one of the last two is as good
        ([0.9, 0.5], Learned.UNKNOWN),  # too short to say that it stays so
        ([0.5, 0.6, 0.5, 0.4, 0.35, 0.3], Learned.YES),  # it rose first: best.pt is good
        ([0.5, 0.49, 0.5, 0.52, 0.55, 0.56], Learned.YES),
        ([0.0, 0.0005, 0.001, 0.002, 0.003, 0.006], Learned.UNKNOWN),  # still little, but growing
    ],
)
def test_accuracy_is_held_against_that_of_the_first_epoch(fitness, learned):
    assert judge_learning(course(fitness)).learned is learned


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_short_run_is_unknown(epochs):
    short = course(FLAT[:epochs], steps=10 * epochs, batches=10 * epochs)
    assert judge_learning(short).learned is Learned.UNKNOWN
    assert found(short).keys() == {Shortfall.TOO_SHORT}
    assert judge_learning(course(ROSE[:4])).learned is Learned.YES


def test_a_run_that_goes_on_has_time():
    running = course(FLAT[:6], ended=False, planned=100)
    assert judge_learning(running).learned is Learned.UNKNOWN
    assert judge_learning(replace(running, planned=12)).learned is Learned.NO
    assert judge_learning(replace(running, planned=12, warmup_batches=120)).learned is Learned.UNKNOWN


def test_without_a_validation_it_is_unknown():
    unseen = course([math.nan] * 12)
    assert found(unseen).keys() == {Shortfall.NOT_VALIDATED}
    empty = course(FLAT, validation_objects=0)
    assert judge_learning(empty).learned is Learned.UNKNOWN
    assert found(empty)[Shortfall.NOT_VALIDATED].value == 0


def test_one_validation_at_the_end_is_held_against_nothing_where_weights_were_random():
    scores = [*[math.nan] * 11, 0.4]
    assert judge_learning(course(scores, from_scratch=True)).learned is Learned.YES
    assert judge_learning(course(scores)).learned is Learned.UNKNOWN
    assert judge_learning(course([*[math.nan] * 11, 0.0])).learned is Learned.NO


def test_accuracy_that_rose_and_fell_to_nothing_was_not_kept():
    collapsed = course([*ROSE[:8], 0.02, 0.01, 0.0, 0.0])
    assert judge_learning(collapsed).learned is Learned.NO
    assert found(collapsed)[Shortfall.COLLAPSED] == Finding(Shortfall.COLLAPSED, value=0.0, limit=0.55, epoch=8)
    assert judge_learning(course([*ROSE[:8], 0.3, 0.2, 0.15, 0.1])).learned is Learned.YES
    assert judge_learning(course([*ROSE[:11], 0.0])).learned is Learned.YES, "one epoch may be noise"


def test_accuracy_that_was_good_and_fell_gives_both_numbers():
    fell = found(course([0.6, 0.6, 0.58, 0.5, 0.45, 0.4, 0.35, 0.32, 0.31, 0.31, 0.31, 0.305]))
    assert fell == {Shortfall.FELL: Finding(Shortfall.FELL, value=0.305, limit=0.6, epoch=1)}
    kept = found(course([0.6, *[0.55] * 11]))
    assert kept.keys() == {Shortfall.GOOD_FROM_THE_START}, "0.92 of it"
    assert found(course([0.03, *[0.0] * 11])).keys() == {Shortfall.NEVER_ROSE}, "it never was good"


# The reasons


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"lr": 0.3, "lr0": 0.3}, True),
        ({"lr": 0.01, "lr0": 0.01}, False),
        ({"lr": 0.1, "lr0": 0.1, "scale_free": False}, False),
        ({"lr": 1.0, "lr0": 1.0, "scale_free": False}, True),
        ({"ran_away": True}, True),
        ({"rate_lowered": True}, True),
        ({"update_ratio": 0.4}, True),
        ({"update_ratio": 0.02}, False),
    ],
)
def test_rate_that_is_too_high(changes, given):
    assert (Shortfall.RATE_TOO_HIGH in found(course(FLAT, **changes))) is given


def test_a_rate_that_is_not_lr0_is_not_called_so():
    assert found(course(FLAT, lr=0.3, lr0=0.3))[Shortfall.RATE_TOO_HIGH].names == ("lr0",)
    by_a_callback = found(course(FLAT, lr=0.5, lr0=0.002))[Shortfall.RATE_TOO_HIGH]
    assert (by_a_callback.names, by_a_callback.value) == ((), 0.5)
    assert found(course(FLAT, lr=0.5, lr0=math.nan))[Shortfall.RATE_TOO_HIGH].names == ()


def test_a_model_that_had_learnt_does_not_predict_the_same_for_every_image():
    lost = judge_learning(course([0.0, 0.2, 0.3, 0.4, *[0.0] * 8], train=[2.0] * 12, validation=FALLING))
    assert lost.learned is Learned.NO
    assert [finding.reason for finding in lost.findings] == [Shortfall.COLLAPSED]


def test_a_rate_that_moves_nothing():
    low = found(course(FLAT, train=[4.0] * 12, lr=1e-7, update_ratio=3e-6))
    assert low.keys() == {Shortfall.RATE_TOO_LOW, Shortfall.NEVER_ROSE}
    assert low[Shortfall.RATE_TOO_LOW].value == 1e-7
    assert Shortfall.RATE_TOO_LOW not in found(course(FLAT, update_ratio=1e-3))
    assert Shortfall.RATE_TOO_LOW not in found(course(FLAT)), "not known"


def test_steps_that_were_skipped():
    most = found(course(FLAT, train=[4.0] * 12, steps=8, skipped=112))
    assert most.keys() == {Shortfall.STEPS_SKIPPED, Shortfall.NEVER_ROSE}, "the others follow from it"
    assert (most[Shortfall.STEPS_SKIPPED].value, most[Shortfall.STEPS_SKIPPED].limit) == (112, 120)
    none = found(course(FLAT, steps=0, skipped=16))
    assert Shortfall.TOO_FEW_STEPS not in none, "more epochs would not help"
    assert Shortfall.STEPS_SKIPPED not in found(course(FLAT, steps=100, skipped=20))


def test_too_few_optimizer_steps():
    few = found(course(FLAT, steps=13))[Shortfall.TOO_FEW_STEPS]
    assert (few.value, few.limit, few.names) == (13, 50, ())
    within = found(course(FLAT, steps=90, batches=90, warmup_batches=100))[Shortfall.TOO_FEW_STEPS]
    assert (within.limit, within.names) == (100, ("warm-up",))
    assert Shortfall.TOO_FEW_STEPS not in found(course(FLAT))
    assert judge_learning(course(ROSE, steps=13)).findings == ()


def test_a_run_that_goes_on_has_too_few_steps_only_if_its_epochs_will_not_bring_enough():
    running = course(FLAT[:5], steps=46, ended=False)
    assert judge_learning(running).learned is Learned.NO
    assert Shortfall.TOO_FEW_STEPS not in found(running)
    assert Shortfall.TOO_FEW_STEPS in found(replace(running, ended=True)), "it came to no more"
    assert found(replace(running, steps=13))[Shortfall.TOO_FEW_STEPS].value == 13, "31 in 12 epochs"
    assert Shortfall.TOO_FEW_STEPS in found(replace(running, planned=0)), "how many are to come is not known"


def test_loss_item_of_exactly_0_although_there_are_objects():
    items = {"box_loss": 0.0, "cls_loss": 3.0, "dfl_loss": 0.0}
    zero = found(course(FLAT, items=items))[Shortfall.LOSS_ZERO]
    assert (zero.names, zero.limit) == (("box_loss", "dfl_loss"), 90)
    for changes in ({"objects": 0}, {"objects": -1}, {"items": {**items, "box_loss": 1e-9, "dfl_loss": 1e-9}}):
        assert Shortfall.LOSS_ZERO not in found(course(FLAT, **{"items": items, **changes}))


def test_branch_without_gradient_from_the_first_step():
    silent = [Branch("head.box", 0.5, 0.9), Branch("head.class", 7e-5, 7e-5)]
    branch = found(course(FLAT, branches=silent))[Shortfall.BRANCH_SILENT]
    assert (branch.names, branch.value) == (("head.class",), 7e-5)
    for share, high in ((0.004, 0.2), (1e-4, 0.01), (0.01, 1e-5), (math.nan, math.nan)):  # the last one is frozen
        assert Shortfall.BRANCH_SILENT not in found(course(FLAT, branches=[Branch("head.class", share, high)]))


def test_layers_that_died():
    died = found(course(FLAT, dead_layers=["model.7"], last_alive=3))[Shortfall.LAYER_DIED]
    assert (died.names, died.epoch) == (("model.7",), 3)
    assert Shortfall.LAYER_DIED not in found(course(FLAT))


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 3e3])
def test_validation_losses_that_cannot_be(loss):
    bad = found(course(FLAT, validation=[*FALLING[:8], *[loss] * 4]))[Shortfall.VALIDATION_LOSS]
    assert bad.names == ("box", "cls")
    assert bad.epoch == 9
    over = course(FLAT, validation=[loss, *FALLING[1:]])
    assert Shortfall.VALIDATION_LOSS not in found(over), "it was over at the end"
    assert Shortfall.VALIDATION_LOSS not in found(course(FLAT, train=[loss] * 12)), "training has it as well"


def test_validation_losses_of_a_custom_loss_that_is_large():
    large = [*FALLING[:8], *[3e4] * 4]
    assert Shortfall.VALIDATION_LOSS not in found(course(FLAT, validation=large, train=[900.0] * 12))
    assert Shortfall.VALIDATION_LOSS in found(course(FLAT, validation=large, train=[200.0] * 12))


def test_losses_of_a_constant_predictor():
    still = found(course(FLAT, validation=[4.3] * 12))[Shortfall.CONSTANT_PREDICTOR]
    assert still.names == ("validation",)
    level = [4.0 + 0.05 * (n % 3) for n in range(12)]
    assert found(course(FLAT, train=level))[Shortfall.CONSTANT_PREDICTOR].names == ("training",)
    assert Shortfall.CONSTANT_PREDICTOR not in found(course(FLAT))
    assert Shortfall.CONSTANT_PREDICTOR not in found(course(FLAT, validation=[4.3] * 12, steps=13)), "it did not move"


def test_training_and_validation_apart():
    rising = [2.0 + 0.2 * n for n in range(12)]
    apart = found(course(FLAT, validation=rising))[Shortfall.OVERFITTING]
    assert (apart.value, apart.limit, apart.epoch) == (pytest.approx(4.2), 2.0, 1)
    assert Shortfall.OVERFITTING not in found(course(FLAT, validation=[2.0, 1.8, *rising[2:]])), "it was better once"
    assert Shortfall.OVERFITTING not in found(
        course(FLAT, train=[4.0 - 0.05 * n for n in range(12)], validation=rising)
    )
    assert Shortfall.OVERFITTING not in found(course(FLAT, validation=rising, lr=0.3)), "the rate says more"


# Without accuracy


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"items": {"box_loss": 0.0, "cls_loss": 2.0}}, Shortfall.LOSS_ZERO),
        ({"branches": [Branch("head.class", 7e-5, 7e-5)]}, Shortfall.BRANCH_SILENT),
        ({"dead_layers": ["model.7"]}, Shortfall.LAYER_DIED),
    ],
)
def test_a_proof_needs_no_validation(changes, reason):
    unseen = course([math.nan] * 12, **changes)
    assert judge_learning(unseen).learned is Learned.NO
    assert found(unseen).keys() == {reason}
    assert judge_learning(course([math.nan] * 12, **changes, steps=10, from_scratch=True)).learned is (
        Learned.NO if reason is Shortfall.LAYER_DIED else Learned.UNKNOWN
    )


@pytest.mark.parametrize("changes", [{"lr": 0.3, "lr0": 0.3}, {"steps": 13}, {"train": [4.0] * 12}])
def test_a_suspicion_is_no_proof(changes):
    assert judge_learning(course([math.nan] * 12, **changes)).learned is Learned.UNKNOWN


def test_nothing_recorded_is_unknown():
    assert judge_learning(Course()).learned is Learned.UNKNOWN
