"""Each remedy of the ladder, carried out and taken back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from tests.fake_trainer import Core, Tiny, TwoRanks, batch_of, differing, nan_batch
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.judge.loss_trend import LossTrend
from yolo_gradsafe.judge.movement import Movement
from yolo_gradsafe.judge.verdict import BatchNormHealth, Evidence, Signals, StepMetrics, judge
from yolo_gradsafe.recovery.outcome import Outcome, Settle
from yolo_gradsafe.telemetry.schema import Cause, Kind, Place, Remedy, Verdict

SKIPPED = Outcome(apply=False, losses=Settle.ROLLBACK, statistics=Settle.ROLLBACK, remedies=(Remedy.SKIPPED,))


def metrics(step: int, finite: bool = True, loss: float = 8.0) -> StepMetrics:
    return StepMetrics(
        epoch=1, step=step, batch=step, lr=0.01, losses=[loss if finite else math.nan], items={"box_loss": loss / 4},
        images=4, image_loss=loss / 4 if finite else 0.0, grad_norm=1.0, losses_finite=finite, grads_finite=finite,
        batchnorm=BatchNormHealth.SOUND, scaler=False, amp_scale=1.0,
    )  # fmt: skip


def bad(core: Core, verdict: Verdict, cause: Cause | None = None, step: int = 0) -> Outcome:
    """Let the manager treat a bad step, as the step after those that were trained, with the cause that was found."""
    outcome = replace(SKIPPED, facts={} if cause is None else {"cause": cause})
    step = step or core.step.progress.step + 1
    finite = verdict is Verdict.DIVERGING
    return core.recovery.handle_bad_step(metrics(step, finite), verdict, outcome)


def safe(core: Core, count: int = 1, start: int = 1000, **facts: float) -> None:
    for step in range(start, start + count):
        core.recovery.count_safe_step(replace(metrics(step), **facts), Signals(), Outcome())


def move(core: Core, times: float) -> None:
    with torch.no_grad():
        for parameter in core.raw.model.parameters():
            parameter *= times


# Nothing to do -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [Cause.IMAGE, Cause.LOSS, Cause.TRANSIENT, Cause.UNKNOWN, None])
def test_a_bad_batch_is_skipped_and_leaves_all_else(tmp_path, cause):
    core = Core(tmp_path)
    core.train(4)
    before = core.raw.state()
    outcome = bad(core, Verdict.BAD_BATCH, cause)
    assert outcome.remedies == (Remedy.SKIPPED,)
    assert (outcome.facts, outcome.stop, core.recovery.rate.factor) == ({"cause": cause} if cause else {}, "", 1.0)
    assert not differing(core.raw.state(), before)
    assert not core.incidents()


# Repair --------------------------------------------------------------------------------------------------------------


def test_poison_is_repaired_and_what_was_suspected_is_forgotten(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.raw.model.conv.bias.data[0] = math.nan
    core.history.loss.sum = 3.0
    outcome = bad(core, Verdict.POISONED)
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.REPAIRED)
    assert outcome.facts == {"repaired": 1}
    assert core.raw.model.conv.bias.isfinite().all()
    assert core.history.loss.sum == 0.0
    assert core.kinds() == [Kind.HEALED]


def test_repairs_that_do_not_hold_end_in_a_rollback(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    done = []
    for _ in range(3):
        core.raw.model.conv.bias.data[0] = math.nan
        done.append(bad(core, Verdict.POISONED).remedies[1:])
    outcome = bad(core, Verdict.POISONED)
    assert done == [(Remedy.REPAIRED,)] * 3
    assert Remedy.ROLLED_BACK in outcome.remedies
    assert outcome.facts["snapshot"] == 2


def test_a_safe_step_ends_the_row_of_repairs(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    for _ in range(6):
        core.raw.model.conv.bias.data[0] = math.nan
        assert bad(core, Verdict.POISONED).remedies == (Remedy.SKIPPED, Remedy.REPAIRED)
        safe(core)


def test_poison_without_a_snapshot_is_left_to_ultralytics(tmp_path):
    core = Core(tmp_path, snapshots=0)
    core.raw.model.conv.bias.data[0] = math.nan
    outcome = bad(core, Verdict.POISONED)
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.LEFT_TO_ULTRALYTICS)
    assert outcome.losses is Settle.LEAVE, "its own recovery must see the loss"
    assert core.raw.model.conv.bias.isnan().any()


def test_statistics_alone_are_restored_and_the_step_is_taken(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    outcome = core.recovery.repair_statistics(Outcome())
    assert (outcome.apply, outcome.statistics, outcome.losses) == (True, Settle.ROLLBACK, Settle.COMMIT)
    assert outcome.remedies == (Remedy.STATISTICS_RESTORED,)


def test_a_step_that_was_made_with_damaged_weights_is_not_taken(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.raw.model.norm.running_mean[0] = math.nan
    outcome = core.recovery.repair_statistics(Outcome())
    assert not outcome.apply
    assert outcome.remedies == (Remedy.REPAIRED, Remedy.SKIPPED)
    assert outcome.facts == {"repaired": 1, "steps_lost": 1}


def test_a_step_that_is_not_taken_is_not_counted_as_a_safe_one(tmp_path):
    """All of it at once: statistics and EMA are damaged, and the gradients are fine."""
    core = Core(tmp_path, lr_hold=1)
    core.train(4)
    core.recovery.rate._lr.lower()
    before, row = core.recovery.state_dict(), len(core.rows())
    core.raw.model.norm.running_mean[0] = core.raw.ema.ema.conv.weight.data[0] = math.nan
    core.raw.take(batch_of(7))
    assert (Kind.POISONED, (Remedy.REPAIRED, Remedy.SKIPPED)) in [(i.kind, i.remedies) for i in core.incidents()]
    assert [line["verdict"] for line in core.rows()[row:]] == [Verdict.POISONED]
    assert core.recovery.state_dict() == before
    core.raw.take(batch_of(8))
    assert core.recovery.state_dict()["lr"]["healthy"] == before["lr"]["healthy"] + 1


# Rollback and learning rate ------------------------------------------------------------------------------------------


def test_a_divergence_is_rolled_back_and_a_rate_that_is_blameless_is_left(tmp_path):
    core = Core(tmp_path)
    core.train(2)
    then = core.raw.state()
    core.train(2, start=2)
    outcome = bad(core, Verdict.DIVERGING)
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.ROLLED_BACK)
    assert outcome.facts == {"snapshot": 2, "undone": 2}
    assert core.recovery.rate.factor == 1.0
    assert not differing(core.raw.state(), then)
    assert core.kinds() == [Kind.ROLLBACK]


def test_a_rate_that_moved_the_weights_too_fast_is_lowered_held_and_given_back(tmp_path):
    core = Core(tmp_path, lr_hold=5)
    core.train(4)
    move(core, 30.0)
    outcome = bad(core, Verdict.DIVERGING)
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.ROLLED_BACK, Remedy.LR_LOWERED, Remedy.BATCHNORM_MOMENTUM_RAISED)
    lowered = outcome.facts["lr_factor"]
    assert lowered == core.recovery.rate.factor < 0.1
    assert [i.lr_factor for i in core.incidents() if i.kind is Kind.LR_BACKOFF] == [lowered]
    core.raw.take(batch_of(7))
    assert float(core.rows()[-1]["lr"]) == pytest.approx(0.01 * lowered, rel=1e-5), "the next step is taken with it"
    assert core.raw.optimizer.param_groups[0]["lr"] == 0.01, "and the host's own is left alone"
    safe(core, 4)
    assert core.recovery.rate.factor == lowered
    safe(core, 1000)
    assert core.recovery.rate.factor == 1.0
    assert [i.lr_factor for i in core.incidents() if i.kind is Kind.LR_RAMP] == [1.0]


def test_it_does_not_grow_while_losses_are_high(tmp_path):
    core = Core(tmp_path, lr_hold=1)
    core.recovery.rate._lr.lower()
    core.history.loss.sum = 10.0
    safe(core, 50)
    assert core.recovery.rate.factor == pytest.approx(0.1)


def test_a_bad_step_starts_the_wait_anew(tmp_path):
    core = Core(tmp_path, lr_hold=5)
    core.recovery.rate._lr.lower()
    safe(core, 5)
    bad(core, Verdict.BAD_BATCH)
    safe(core, 5)
    assert core.recovery.rate.factor == pytest.approx(0.1)


def test_a_second_rollback_soon_after_goes_further_back_and_lowers_the_rate_whoever_is_to_blame(tmp_path):
    core = Core(tmp_path)
    core.train(6)
    first, second = bad(core, Verdict.DIVERGING), bad(core, Verdict.DIVERGING, step=20)
    assert [done.facts["snapshot"] for done in (first, second)] == [4, 2]
    assert Remedy.LR_LOWERED not in first.remedies
    assert Remedy.LR_LOWERED in second.remedies
    assert core.recovery.rate.factor == pytest.approx(0.1)


def test_the_rate_is_left_where_the_options_say_so(tmp_path):
    core = Core(tmp_path, lr_backoff=1.0)
    core.train(4)
    move(core, 30.0)
    assert bad(core, Verdict.DIVERGING).remedies == (Remedy.SKIPPED, Remedy.ROLLED_BACK)
    assert core.recovery.rate.factor == 1.0


def moved(ratio: float, step: int = 5, rate: float = 1.0, finite: bool = True) -> StepMetrics:
    """Return a step, of which the one before moved the weights so far."""
    return replace(metrics(step, finite), update_ratio=ratio, update_rate=rate)


REPLACED = Signals(movement=Movement.REPLACED)
TOO_FAR = Signals(movement=Movement.TOO_FAR)


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_that_replaced_the_weights_is_taken_back_and_the_rate_is_limited(tmp_path, finite):
    core = Core(tmp_path)
    core.train(2)
    then = core.raw.state()
    core.train(2, start=2)
    move(core, 30.0)
    step = moved(3.0, finite=finite)
    assert core.recovery.suspects(step, REPLACED)
    evidence = core.recovery.examine(step, REPLACED, None)
    assert evidence is Evidence.MOVED_TOO_FAR
    found = core.recovery.investigate(step, Verdict.DIVERGING, evidence)
    assert found == {"cause": Cause.LEARNING_RATE, "update_ratio": 3.0}
    outcome = core.recovery.handle_bad_step(step, Verdict.DIVERGING, replace(SKIPPED, facts=found))
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.ROLLED_BACK, Remedy.LR_LOWERED, Remedy.BATCHNORM_MOMENTUM_RAISED)
    assert not differing(core.raw.state(), then)
    assert core.recovery.rate.factor == pytest.approx(0.015 / 3)
    told = {incident.kind: incident for incident in core.incidents()}
    assert told[Kind.LR_BACKOFF].update_ratio == 3.0
    assert "changed the weights by 300% of their size" in told[Kind.LR_BACKOFF].message


def test_it_is_taken_back_as_a_whole_also_where_a_part_of_the_state_is_not_finite(tmp_path):
    core = Core(tmp_path)
    core.train(2)
    then = core.raw.state()
    core.train(2, start=2)
    move(core, 30.0)
    core.raw.model.norm.running_var.fill_(math.nan)
    found = {"cause": Cause.LEARNING_RATE, "update_ratio": 3.0}
    outcome = core.recovery.handle_bad_step(moved(3.0), Verdict.DIVERGING, replace(SKIPPED, facts=found))
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.ROLLED_BACK, Remedy.LR_LOWERED, Remedy.BATCHNORM_MOMENTUM_RAISED)
    assert not differing(core.raw.state(), then)


@pytest.mark.parametrize("options", [{"snapshots": 0}, {"divergence": False}])
def test_it_is_not_taken_back_where_nothing_may_be_or_can_be(tmp_path, options):
    core = Core(tmp_path, **options)
    assert not core.recovery.suspects(moved(3.0), REPLACED)
    assert core.recovery.examine(moved(3.0), REPLACED, None) is Evidence.NONE


def test_steps_that_move_the_weights_too_far_limit_the_rate_before_the_next_one_and_are_kept(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    then = core.raw.state()
    core.recovery.limit_lr(moved(0.06, rate=0.1), TOO_FAR)
    assert core.recovery.rate.factor == pytest.approx(0.015 / 0.6)
    assert not differing(core.raw.state(), then)
    core.recovery.limit_lr(moved(0.06, rate=0.1), TOO_FAR)
    (incident,) = core.incidents()  # the same limit again is none
    assert (incident.kind, incident.cause, incident.update_ratio) == (Kind.LR_BACKOFF, Cause.LEARNING_RATE, 0.06)


@pytest.mark.parametrize("options", [{"lr_backoff": 1.0}, {"divergence": False}])
def test_the_rate_is_not_limited_where_the_options_say_so(tmp_path, options):
    core = Core(tmp_path, **options)
    core.recovery.limit_lr(moved(0.06), TOO_FAR)
    assert core.recovery.rate.factor == 1.0


def test_a_step_that_is_taken_back_is_limited_with_its_rollback(tmp_path):
    core = Core(tmp_path)
    core.recovery.limit_lr(moved(0.6), REPLACED, Evidence.MOVED_TOO_FAR)
    assert core.recovery.rate.factor == 1.0


@pytest.mark.parametrize(("times", "taken_back"), [(1.0, False), (3.0, True)])
def test_steps_that_move_the_weights_too_far_are_taken_back_where_the_weights_before_do_better(
    tmp_path, times, taken_back
):
    core = Core(tmp_path)
    core.train(4)
    move(core, times)
    step = moved(0.06)
    assert core.recovery.suspects(step, TOO_FAR)
    evidence = core.recovery.examine(step, TOO_FAR, batch_of(0))
    assert evidence is (Evidence.MOVED_TOO_FAR if taken_back else Evidence.NONE)
    assert judge(step, TOO_FAR, evidence) is (Verdict.DIVERGING if taken_back else Verdict.OK)
    assert core.recovery.examine(step, TOO_FAR, None) is Evidence.NONE, "the batch is gone"


def test_they_are_compared_once(tmp_path):
    core = Core(tmp_path)
    core.recovery.limit_lr(moved(0.06), TOO_FAR)
    assert not core.recovery.suspects(moved(0.06), TOO_FAR), "a step from before the rate was limited"
    assert core.recovery.suspects(moved(0.12), TOO_FAR)


def test_damage_that_can_be_repaired_is_not_rolled_back(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.raw.model.conv.bias.data[0] = 1e30  # finite, and the losses are high for it
    outcome = bad(core, Verdict.DIVERGING)
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.REPAIRED)
    assert core.recovery.rate.factor == 1.0


def test_a_batch_that_only_fails_under_these_weights_is_a_matter_of_the_weights(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    outcome = bad(core, Verdict.BAD_BATCH, Cause.WEIGHTS)
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.ROLLED_BACK)
    assert outcome.facts == {"cause": "weights", "snapshot": 2, "undone": 2}


# Validation ----------------------------------------------------------------------------------------------------------


def test_a_validation_that_trusted_weights_rescue_keeps_them_and_a_second_return_lowers_the_rate(tmp_path):
    core = Core(tmp_path)
    core.train(2)
    then = core.raw.state()
    core.train(2, start=2)
    core.recovery.rescue_validation(4, ["val/box_loss"])(True)
    assert not differing(core.raw.state(), then)
    assert (core.recovery.rate.factor, core.kinds()) == (1.0, [Kind.ROLLBACK])
    core.train(1, start=4)
    core.recovery.rescue_validation(5, ["val/box_loss"])(True)
    assert core.recovery.rate.factor == pytest.approx(0.1)
    told = core.incidents()
    assert [incident.kind for incident in told] == [Kind.ROLLBACK, Kind.LR_BACKOFF]
    assert told[1].message == "validation failed again after the rollback"


@pytest.mark.parametrize(
    ("batches", "between", "lowered"), [(8, 99, True), (8, 100, False), (500, 500, True), (500, 501, False)]
)
def test_a_second_return_soon_after_or_at_the_next_validation_lowers_the_rate_from_a_newer_snapshot_as_well(
    tmp_path, batches, between, lowered
):
    core = Core(tmp_path)
    core.raw.train_loader, core.raw.accumulate = range(batches), 1
    core.train(4)
    assert core.recovery.rescue_validation(4, ["val/box_loss"])(True)
    assert (core.recovery.rate.factor, core.kinds()) == (1.0, [Kind.ROLLBACK])
    core.train(6, start=4)
    assert core.recovery.rescue_validation(4 + between, ["val/box_loss"])(True)
    first, *more = core.incidents()
    assert (first.kind, first.snapshot) == (Kind.ROLLBACK, 8), "not the snapshot of before"
    assert core.recovery.rate.factor == pytest.approx(0.1 if lowered else 1.0)
    assert [told.message for told in more] == ["validation failed again after the rollback"] * lowered


def test_a_second_return_soon_after_leaves_a_rate_that_was_lowered_since_the_snapshot(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.recovery.rescue_validation(4, ["val/box_loss"])(True)
    core.train(6, start=4)
    core.recovery.limit_lr(moved(0.3, step=10), TOO_FAR)
    core.recovery.rescue_validation(11, ["val/box_loss"])(True)
    assert core.recovery.rate.factor == pytest.approx(0.05)
    assert [told.kind for told in core.incidents()] == [Kind.ROLLBACK, Kind.LR_BACKOFF, Kind.ROLLBACK]


def fast(core: Core) -> None:
    """Let the last step have moved the weights further than it may, by a rate that nobody has lowered."""
    safe(core, 1, update_ratio=0.1)


def test_absurd_losses_of_a_validation_lower_a_rate_that_moves_too_far_at_the_first_return(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    fast(core)
    assert core.recovery.rescue_validation(4, [])(True)
    assert core.recovery.rate.factor == pytest.approx(0.1)
    assert [(i.kind, i.remedies) for i in core.incidents()] == [
        (Kind.ROLLBACK, (Remedy.ROLLED_BACK,)),
        (Kind.LR_BACKOFF, (Remedy.LR_LOWERED, Remedy.BATCHNORM_MOMENTUM_RAISED)),
    ]


@pytest.mark.parametrize("muon", [False, True])
def test_absurd_losses_at_any_other_rate_let_the_statistics_follow_and_the_weights_stay(tmp_path, monkeypatch, muon):
    core = Core(tmp_path)
    core.train(4)
    if muon:
        monkeypatch.setattr(type(core.trainer), "has_muon", True)
        fast(core)
    before = core.raw.state()
    assert core.recovery.rescue_validation(4, [])(True) is False
    assert not differing(core.raw.state(), before)
    assert (core.recovery.rate.factor, core.raw.model.norm.momentum) == (1.0, 0.1)
    (told,) = core.incidents()
    assert (told.kind, told.remedies) == (Kind.BATCHNORM_LAG, (Remedy.BATCHNORM_MOMENTUM_RAISED,))
    assert core.recovery.rescue_validation(4, []) is None, "they need time"
    assert core.recovery.rescue_validation(4, ["val/box_loss"]) is not None


@pytest.mark.parametrize(("known", "kept"), [(0.1, True), (0.01, False), (math.nan, False)])
def test_the_newest_step_of_which_it_is_known_tells_how_far_they_move_and_without_one_the_rate_is_not_blamed(
    tmp_path, known, kept
):
    core = Core(tmp_path)
    core.train(4)
    safe(core, 1, start=5, update_ratio=known)
    safe(core, 1, start=6, update_ratio=math.nan)
    assert core.recovery.rescue_validation(6, [])(True) is kept
    assert core.kinds() == ([Kind.ROLLBACK, Kind.LR_BACKOFF] if kept else [Kind.BATCHNORM_LAG])


def test_where_no_layer_could_follow_faster_trusted_weights_stay_as_they_are_good(tmp_path):
    core = Core(tmp_path)
    core.raw.model.norm.momentum = 0.1
    core.train(4)
    assert core.recovery.rescue_validation(4, [])(True)
    assert core.kinds() == [Kind.ROLLBACK, Kind.LR_BACKOFF]


def test_statistics_do_not_lag_where_trusted_weights_do_no_better(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    assert core.recovery.rescue_validation(4, [])(False) is False
    assert core.raw.model.norm.momentum == 0.03
    assert not core.incidents()


def test_statistics_follow_a_rate_that_was_lowered_until_it_is_back(tmp_path):
    core = Core(tmp_path, lr_hold=1)
    core.train(4)
    core.recovery.limit_lr(moved(0.3, step=4), TOO_FAR)
    assert core.raw.model.norm.momentum == 0.1
    (told,) = core.incidents()
    assert told.remedies == (Remedy.LR_LOWERED, Remedy.BATCHNORM_MOMENTUM_RAISED)
    assert told.action.endswith(
        "planned value, raised the momentum of batch-norm statistics, so that they follow the weights"
    )
    safe(core, 60, update_ratio=1e-4)
    assert (core.recovery.rate.factor, core.raw.model.norm.momentum) == (1.0, 0.03)


def test_a_resumed_run_lets_them_follow_as_well_and_the_end_of_a_run_leaves_the_model_as_it_was(tmp_path):
    core, resumed = Core(tmp_path / "a"), Core(tmp_path / "b")
    core.train(4)
    core.recovery.limit_lr(moved(0.3, step=4), TOO_FAR)
    resumed.recovery.load_state_dict(core.recovery.state_dict())
    assert resumed.raw.model.norm.momentum == 0.1
    core.session.finish()
    assert core.raw.model.norm.momentum == 0.03


def user(core: Core, rate: float) -> None:
    """Let the user's own schedule start from another rate, and take a step with it."""
    for group in core.raw.optimizer.param_groups:
        group["initial_lr"] = group["lr"] = rate
    core.train()


def test_a_rate_that_the_user_lowers_below_what_is_allowed_is_the_users_own_and_so_is_the_momentum(tmp_path):
    core = Core(tmp_path)
    user(core, 0.01)
    core.recovery.limit_lr(moved(0.15, step=1), TOO_FAR)
    assert core.kinds() == [Kind.LR_BACKOFF]
    user(core, 0.001)
    assert (core.recovery.rate.factor, core.raw.model.norm.momentum) == (1.0, 0.03)
    assert [(told.kind, told.remedies, told.lr_factor) for told in core.incidents()] == [
        (Kind.LR_RAMP, (Remedy.LR_RESTORED,), 1.0)
    ]


def test_a_rate_that_the_user_goes_back_to_is_lowered_before_a_step_is_taken_with_it(tmp_path):
    core = Core(tmp_path)
    user(core, 0.01)
    core.recovery.limit_lr(moved(0.15, step=1), TOO_FAR)
    user(core, 0.001)
    user(core, 0.01)
    assert [float(row["lr"]) for row in core.rows()] == pytest.approx([0.01, 0.001, 0.001], rel=1e-4)
    assert (core.recovery.rate.factor, core.raw.model.norm.momentum) == (pytest.approx(0.1), 0.1)


def test_a_rate_that_was_lowered_since_the_snapshot_is_not_lowered_again_for_the_same_steps(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.recovery.limit_lr(moved(0.3, step=4), TOO_FAR)
    limited = core.recovery.rate.factor
    move(core, 30.0)
    assert core.recovery.rescue_validation(4, []) is None, "absurd losses get time"
    core.recovery.rescue_validation(4, ["val/box_loss"])(True)
    assert core.recovery.rate.factor == limited == pytest.approx(0.05)
    assert [incident.kind for incident in core.incidents()] == [Kind.LR_BACKOFF, Kind.ROLLBACK]


def test_a_validation_that_they_do_not_rescue_is_told_and_changes_nothing(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    before = core.raw.state()
    core.recovery.rescue_validation(4, ["val/cls_loss"])(False)
    assert not differing(core.raw.state(), before)
    (told,) = core.incidents()
    assert (told.kind, told.term) == (Kind.VALIDATION, "val/cls_loss")
    fast(core)
    core.recovery.rescue_validation(4, [])(False)
    assert not core.incidents(), "losses that are merely large are the user's own"


def test_rollbacks_for_validations_have_the_same_budget(tmp_path):
    core = Core(tmp_path, max_rollbacks=1)
    core.train(4)
    fast(core)
    core.recovery.rescue_validation(4, [])(True)
    core.train(2)
    assert core.recovery.rescue_validation(6, []) is None


# Precision -----------------------------------------------------------------------------------------------------------


def test_the_precision_goes_up_after_a_few_faults_and_comes_down_again(tmp_path):
    core = Core(tmp_path, precision_patience=2, precision_hold=3)
    core.trainer._trained_in = "fp16"
    first = bad(core, Verdict.BAD_BATCH, Cause.PRECISION, step=1)
    second = bad(core, Verdict.BAD_BATCH, Cause.PRECISION, step=2)
    assert first.remedies == (Remedy.SKIPPED,)
    assert second.remedies == (Remedy.SKIPPED, Remedy.PRECISION_RAISED)
    assert second.facts == {"cause": "precision", "precision": "bf16"}
    assert core.trainer.forward_precision == "bf16"
    safe(core, 2)
    assert core.trainer.forward_precision == "bf16"
    safe(core)
    assert core.trainer.forward_precision == "fp16"
    raised, lowered = core.incidents()
    assert (raised.remedies, raised.precision_before, raised.precision) == ((Remedy.PRECISION_RAISED,), "fp16", "bf16")
    assert (lowered.remedies, lowered.precision) == ((Remedy.PRECISION_LOWERED,), "fp16")


def test_full_precision_cannot_be_raised(tmp_path):
    core = Core(tmp_path, precision_patience=1)
    assert bad(core, Verdict.BAD_BATCH, Cause.PRECISION).remedies == (Remedy.SKIPPED,)
    assert core.trainer.forward_precision == "fp32"


# The end -------------------------------------------------------------------------------------------------------------


def test_the_end_is_told_once_and_holds(tmp_path):
    core = Core(tmp_path, max_skips=2)
    outcomes = [bad(core, Verdict.BAD_BATCH) for _ in range(5)]
    assert [bool(outcome.stop) for outcome in outcomes] == [False, False, True, True, True]
    assert outcomes[2].stop == "3 optimizer steps in a row were skipped"
    assert [Remedy.STOPPED in outcome.remedies for outcome in outcomes] == [False, False, True, False, False]
    [told] = core.incidents()
    assert (told.kind, told.budget, told.count) == (Kind.STOP, "max_skips", 3)


def test_a_training_whose_every_batch_fails_ends_early_and_is_told_once(tmp_path):
    core = Core(tmp_path)
    outcomes = [bad(core, Verdict.BAD_BATCH, Cause.LOSS) for _ in range(18)]
    assert [bool(outcome.stop) for outcome in outcomes] == [False] * 15 + [True] * 3
    assert [outcome.facts["cause"] for outcome in outcomes] == [Cause.LOSS] * 15 + [Cause.EVERY_BATCH] * 3
    assert [number for number, one in enumerate(outcomes, 1) if Remedy.STOPPED in one.remedies] == [16]
    assert outcomes[15].stop.startswith("each of the first 16 steps failed")
    [told] = core.incidents()
    assert (told.kind, told.cause, told.budget, told.count) == (Kind.STOP, "every_batch", "hopeless_after", 16)


def test_a_loss_that_divides_by_zero_in_every_batch_ends_the_training_as_every_batch(tmp_path):
    """All of it at once, from the first step on."""
    core = Core(tmp_path)
    forward = core.raw.model.forward

    def broken(batch):
        loss, items = forward(batch)
        return loss * (torch.zeros(()) / torch.zeros(())), items

    core.raw.model.forward = broken
    for seed in range(17):
        core.raw.take(batch_of(seed))
    told = core.incidents()
    steps, stops = ([i for i in told if (i.kind is Kind.STOP) is stop] for stop in (False, True))
    assert [step.cause for step in steps] == ["loss"] * 15 + ["every_batch"] * 2
    assert [(stop.cause, stop.step, stop.count) for stop in stops] == [("every_batch", 16, 16)]
    assert core.step.stopped.startswith("each of the first 16 steps failed")


def test_the_last_rollback_leaves_a_model_that_works(tmp_path):
    core = Core(tmp_path, max_rollbacks=1)
    first = core.raw.state()
    core.train(4)
    assert not bad(core, Verdict.DIVERGING).stop
    move(core, 3.0)
    outcome = bad(core, Verdict.DIVERGING, step=500)
    assert outcome.stop == "1 rollbacks did not make training stable"
    assert outcome.remedies == (Remedy.SKIPPED, Remedy.ROLLED_BACK, Remedy.STOPPED)
    assert not differing(core.raw.state(), first)


# Who is to blame -----------------------------------------------------------------------------------------------------


def around_a_bad_step(core: Core) -> Surroundings:
    """Return what the manager tells whoever looks into a bad step."""
    asked = []
    core.recovery.investigator.step = lambda metrics, verdict, around, row: asked.append(around) or {}
    core.recovery.investigate(metrics(5, finite=False), Verdict.BAD_BATCH)
    return asked[0]


def test_a_bad_step_is_looked_into_with_what_is_known_of_losses_and_weights(tmp_path):
    core = Core(tmp_path)
    assert math.isnan(around_a_bad_step(core).usual_loss)
    core.train(2)
    then = core.raw.state()
    core.train(2, start=2)
    core.history.loss.sum = 10.0
    around, live = around_a_bad_step(core), core.raw.state()
    assert (around.usual_loss, around.elevated) == (core.history.loss.usual, True)
    with around.trusted():
        assert not [name for name in differing(core.raw.state(), then) if name.startswith("model/")]
    assert not differing(core.raw.state(), live)


def test_without_a_snapshot_there_are_no_weights_to_compare_with(tmp_path):
    around = around_a_bad_step(Core(tmp_path, snapshots=0))
    assert (around.trusted, around.elevated) == (None, False)


def test_bad_steps_in_a_row_are_counted_up_to_the_next_safe_one(tmp_path):
    core, rows = Core(tmp_path), []
    core.recovery.investigator.step = lambda metrics, verdict, around, row: rows.append(row) or {}
    for step in range(1, 6):
        if step == 4:
            safe(core)
        core.recovery.investigate(metrics(step, finite=False), Verdict.BAD_BATCH)
        bad(core, Verdict.BAD_BATCH)
    assert rows == [1, 2, 3, 1, 2]


def test_a_divergence_is_proven_on_the_same_batch(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    high = Signals(LossTrend.SUSPECT)
    core.history.loss.sum = 5.0
    assert core.recovery.suspects(metrics(5), high)
    assert not core.recovery.suspects(metrics(5), Signals())
    assert core.recovery.examine(metrics(5, loss=800.0), high, batch_of(0)) is Evidence.NONE
    assert core.history.loss.usual == pytest.approx(200.0), "the data are harder: that is the usual loss from now on"
    move(core, 10.0)
    assert core.recovery.examine(metrics(5), high, batch_of(0)) is Evidence.TRUSTED_DO_BETTER
    assert core.recovery.examine(metrics(5), high, None) is Evidence.NONE, "the batch is gone"


def test_divergence_is_looked_for_where_the_options_and_a_snapshot_allow_it(tmp_path):
    high = Signals(LossTrend.SUSPECT)
    assert not Core(tmp_path, divergence=False).recovery.suspects(metrics(5), high)
    assert not Core(tmp_path, snapshots=0).recovery.suspects(metrics(5), high)


def test_a_state_that_is_not_finite_on_another_rank_is_poisoned_here_too(tmp_path):
    core = Core(tmp_path)
    assert core.recovery.examine(metrics(5, finite=False), Signals(), batch_of(0)) is Evidence.NONE
    core.among(TwoRanks([1.0]))
    assert core.recovery.examine(metrics(5, finite=False), Signals(), batch_of(0)) is Evidence.STATE_DAMAGED


def test_a_stage_that_has_vanished_is_told_once(tmp_path):
    core = Core(tmp_path)
    for stages in [("neck",), ("neck",), (), ("neck",)]:
        core.recovery.count_safe_step(metrics(9), Signals(vanished=stages), Outcome())
    assert [i.stages for i in core.incidents()] == [["neck"], ["neck"]]


# State ---------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_from_what_was_done(tmp_path):
    core, other = Core(tmp_path / "one", precision_patience=1), Core(tmp_path / "other", precision_patience=1)
    core.train(6)
    for made in (core, other):
        made.trainer._trained_in = "fp16"
    move(core, 30.0)
    bad(core, Verdict.DIVERGING)
    bad(core, Verdict.BAD_BATCH, Cause.PRECISION)
    state = json.loads(json.dumps(core.recovery.state_dict(), allow_nan=False))
    other.recovery.load_state_dict(state)
    assert other.recovery.state_dict() == state
    assert other.recovery.rate.factor == core.recovery.rate.factor < 1
    safe(other)
    assert other.trainer.forward_precision == "bf16", "once it is known what there is to climb"
    assert not other.incidents(), "nothing was changed: this is where training stood"


def test_a_rank_takes_over_that_nothing_is_raised_as_well(tmp_path):
    core, other = Core(tmp_path / "one"), Core(tmp_path / "other", precision_patience=1)
    other.trainer._trained_in = "fp16"
    bad(other, Verdict.BAD_BATCH, Cause.PRECISION)
    other.recovery.limit_lr(moved(0.3), TOO_FAR)
    assert (other.trainer.forward_precision, other.raw.model.norm.momentum) == ("bf16", 0.1)
    other.recovery.load_state_dict(json.loads(json.dumps(core.recovery.state_dict())))
    assert (other.trainer.forward_precision, other.raw.model.norm.momentum) == ("fp16", 0.03)
    assert other.recovery.rate.factor == 1.0


def test_what_was_given_back_to_itself_is_the_same(tmp_path):
    """A rank that takes over rank 0's state may know all of it already."""
    core = Core(tmp_path, precision_patience=3)
    core.trainer._trained_in = "fp16"
    bad(core, Verdict.BAD_BATCH, Cause.PRECISION, step=1)
    state = core.recovery.state_dict()
    core.recovery.load_state_dict(state)
    assert core.recovery.state_dict() == state


# What a failed treatment leaves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "fault"),
    [("investigate", "look into a bad step"), ("handle_bad_step", "treat a bad step (it was skipped)")],
)
def test_a_diagnosis_or_a_treatment_that_fails_leaves_a_step_that_was_skipped(tmp_path, part, fault):
    core = Core(tmp_path)
    core.train(4)
    before, shown = core.raw.state(), float(core.raw.loss)

    def fails(*_):
        raise MemoryError("planted")

    setattr(core.recovery, part, fails)
    core.raw.take(nan_batch())
    assert not differing(core.raw.state(), before)
    assert float(core.raw.loss) == shown, "Ultralytics' own recovery must not see it"
    assert core.session.boundary.faults == {fault: 1}
    core.log.flush()
    row = core.session._recorder.paths.incidents.read_text()
    assert '"kind": "internal_error"' in row
    assert '"kind": "bad_batch"' in row
    core.raw.take(batch_of(9))
    assert differing(core.raw.state(), before), "training goes on"


def test_a_rollback_that_fails_is_not_counted(tmp_path):
    core = Core(tmp_path)
    core.train(4)

    def fails(steps):
        raise MemoryError("planted")

    core.rollback.roll_back = fails
    with pytest.raises(MemoryError):
        bad(core, Verdict.DIVERGING)
    state = core.recovery.state_dict()
    assert (state["rollbacks"], state["rolled_back_at"], core.recovery.rate.factor) == (0, None, 1.0)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_real_nan_batch_leaves_no_trace(tmp_path, optimizer):
    """All of it at once: skipped, put back, told."""
    core = Core(tmp_path, Tiny(tmp_path, optimizer))
    core.train(4)
    before = core.raw.state()
    core.raw.take(nan_batch())
    assert not differing(core.raw.state(), before)
    [told] = core.incidents()
    assert (told.kind, told.place, told.cause, told.images) == (Kind.BAD_BATCH, Place.LOSS, "image", ["0-1.jpg"])
