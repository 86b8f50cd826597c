"""The training state is put back: all of it, exactly, and to a state that may be trusted."""

from __future__ import annotations

import json
import math

import pytest
import torch
from ultralytics.utils.torch_utils import ModelEMA

from tests.fake_trainer import Core, Tiny, TwoRanks, batch_of, differing
from yolo_gradsafe.telemetry.schema import Kind, Place, Remedy


def test_the_first_snapshot_is_of_the_state_before_the_first_step(tmp_path):
    core = Core(tmp_path)
    before = core.raw.state()
    assert core.rollback.trusted.step == 0
    core.train(1)
    core.rollback.roll_back(1)
    assert not differing(core.raw.state(), before)


def test_no_snapshot_is_taken_where_none_is_wanted(tmp_path):
    core = Core(tmp_path, snapshots=0)
    core.train(5)
    assert (core.rollback.trusted, core.rollback.snapshot_interval) == (None, 0)
    with pytest.raises(LookupError, match="no snapshot"):
        core.rollback.roll_back(5)


def test_a_state_that_does_not_fit_into_the_memory_is_said_to(tmp_path):
    core = Core(tmp_path, snapshot_memory=1e-9)
    assert core.rollback.trusted is None
    assert core.kinds() == [Kind.NO_SNAPSHOTS]


@pytest.mark.parametrize("options", [{"snapshots": 0}, {"snapshot_memory": 1e-9}], ids=["none wanted", "no room"])
def test_nothing_is_repaired_without_a_snapshot(tmp_path, options):
    raw = Tiny(tmp_path)
    raw.model.register_buffer("counts", torch.tensor([5e4, 2e5]))
    raw.ema = ModelEMA(raw.model)
    core = Core(tmp_path, raw, **options)
    core.train(3)
    core.incidents()
    before, steps = core.raw.state(), raw.ema.updates
    raw.backward(batch_of(3))
    raw.model.norm.running_var[0] = math.nan
    raw.optimizer_step()
    assert core.kinds() == [Kind.POISONED]
    assert core.rows()[-1]["clip_scale"] == "1", "its gradients are fine, and are applied"
    assert torch.equal(core.raw.state()["model/norm.running_var"], before["model/norm.running_var"])
    assert raw.model.counts.tolist() == raw.ema.ema.counts.tolist() == [5e4, 2e5]
    assert raw.ema.updates == steps + 1
    with torch.no_grad():
        raw.model.conv.weight[0, 0] = math.nan
    raw.run_callbacks("on_train_batch_end")
    damaged = core.raw.state()
    raw.take(batch_of(4))
    [told] = core.incidents()
    assert (told.kind, told.remedies) == (Kind.POISONED, (Remedy.SKIPPED, Remedy.LEFT_TO_ULTRALYTICS))
    assert core.rollback.repair_nonfinite() == 0
    assert differing(core.raw.state(), damaged) == {"model/conv.weight"}, "NaN differs from NaN"
    assert core.raw.state()["model/conv.weight"].isnan().sum() == 1
    assert raw.loss.isnan(), "Ultralytics' own recovery sees it"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_rollback_restores_all_of_the_state_to_the_bit(tmp_path, optimizer):
    core = Core(tmp_path, Tiny(tmp_path, optimizer))
    core.train(2)  # the snapshot of step 2 is proven by steps 3 and 4
    then, learnt = core.raw.state(), core.registry.state_dict(with_weights_only=True)
    core.train(2, start=2)
    assert differing(core.raw.state(), then)
    back = core.rollback.roll_back(4)
    assert (back.snapshot, back.undone) == (2, 2)
    assert not differing(core.raw.state(), then)
    assert core.registry.state_dict(with_weights_only=True) == learnt
    [told] = core.incidents()
    assert (told.kind, told.place, told.snapshot, told.undone, told.steps_lost) == (
        Kind.ROLLBACK, Place.STATE, 2, 2, 2,
    )  # fmt: skip


def test_a_rollback_forgets_optimizer_state_that_came_later(tmp_path):
    core = Core(tmp_path)
    core.train(1)
    assert core.trainer.state.optimizer()
    core.rollback.roll_back(1)
    assert not core.trainer.state.optimizer(), "the first snapshot is of before the first step"
    core.train(1)
    assert core.trainer.state.optimizer(), "and it starts anew"


def test_moments_are_dropped_where_that_is_asked_for(tmp_path):
    core = Core(tmp_path, reset_moments=True)
    core.train(4)
    core.rollback.roll_back(4)
    assert core.rollback.trusted.step == 2
    assert not core.trainer.state.optimizer()


def test_what_the_clipper_has_learnt_goes_back_and_what_counts_rollbacks_does_not(tmp_path):
    core = Core(tmp_path)
    learnt = {"norms": [0]}

    class Learns:
        def state_dict(self):
            return {"norms": list(learnt["norms"])}

        def load_state_dict(self, state):
            learnt["norms"] = list(state["norms"])

    core.registry.register("rule", Learns(), follows_weights=True)
    core.rollback.restart(0)
    learnt["norms"].append(1)
    core.recovery._rollbacks = 5
    core.rollback.roll_back(0)
    assert learnt["norms"] == [0]
    assert core.recovery._rollbacks == 5


def test_a_second_rollback_goes_to_the_one_before(tmp_path):
    core = Core(tmp_path)
    core.train(6)
    assert [s.step for s in core.rollback._buffer.trusted] == [4, 2]
    assert [core.rollback.roll_back(6).snapshot for _ in range(3)] == [4, 2, 2]


def test_a_rollback_goes_to_the_newest_again_once_there_is_a_newer_one(tmp_path):
    core = Core(tmp_path)
    core.train(6)
    core.rollback.roll_back(6)
    core.train(5, start=6)
    newest = core.rollback.trusted.step
    assert newest > 6
    assert core.rollback.roll_back(11).snapshot == newest


def test_two_divergences_in_a_row_ask_for_the_same_rate(tmp_path):
    """The sum of the learning rates goes back with the weights: a movement is held against the steps that made it."""
    core = Core(tmp_path, snapshots=2, trust_steps=1000)
    start = core.raw.state()["model/conv.weight"]
    asked = []
    for seed in (0, 10):
        for _ in range(10):
            core.rollback.count_safe_step(seed, rate=0.5, elevated=True)
        with torch.no_grad():
            for parameter in core.raw.model.parameters():
                parameter *= 11.0  # ten times its own size in ten steps, at half the schedule's largest rate
        asked.append(core.rollback.roll_back(10).peak_update_ratio)
        assert torch.equal(core.raw.state()["model/conv.weight"], start)
        assert core.rollback.state_dict() == {"rate_sum": 0.0}
    assert asked == [pytest.approx(10 / 5, rel=1e-4)] * 2


def test_the_sum_of_the_rates_outlasts_a_resume(tmp_path):
    core = Core(tmp_path)
    core.train(3)
    state = json.loads(json.dumps(core.rollback.state_dict()))
    other = Core(tmp_path / "other")
    other.rollback.load_state_dict(state)
    assert other.rollback.state_dict() == {"rate_sum": pytest.approx(3.0)}


def test_the_rank_whose_weights_moved_furthest_decides_about_the_rate(tmp_path):
    core = Core(tmp_path)
    core.train(1)
    core.among(TwoRanks([0.25]))
    assert core.rollback.roll_back(1).peak_update_ratio == 0.25


@pytest.mark.parametrize(("name", "where"), [
    ("model/conv.weight", 0),
    ("model/norm.running_var", 1),
    ("ema/head.weight", 0),
    ("optimizer/conv.weight/momentum_buffer", 2),
])  # fmt: skip
def test_what_is_not_finite_is_repaired_in_place_and_nothing_else_is(tmp_path, name, where):
    core = Core(tmp_path)
    core.train(4)
    good = core.rollback.trusted._tensors[name].clone()
    before = core.raw.state()
    core.trainer.state.tensors()[name].view(-1)[where] = math.nan
    assert core.rollback.repair_nonfinite() == 1
    assert differing(core.raw.state(), before) <= {name}
    repaired, expected = core.raw.state()[name], before[name].clone()
    expected.view(-1)[where] = good.view(-1)[where]
    assert torch.equal(repaired, expected), "the one element is the snapshot's"
    [told] = core.incidents()
    assert (told.kind, told.remedies, told.tensors, told.repaired) == (Kind.HEALED, (Remedy.REPAIRED,), [name], 1)
    assert core.rollback.repair_nonfinite() == 0


def test_repaired_statistics_are_the_good_ones_from_then_on(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.raw.model.norm.running_mean[0] = math.nan
    core.step.savepoint.renew()  # the damage is in the copy, too
    core.rollback.repair_nonfinite()
    repaired = core.raw.model.norm.running_mean.clone()
    core.step.savepoint.buffers.rollback()
    assert torch.equal(core.raw.model.norm.running_mean, repaired)


def test_the_whole_state_is_looked_at_before_it_is_saved(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.rollback.check_state()
    assert not core.incidents(), "all is well"
    core.trainer.state.tensors()["ema/conv.weight"].fill_(1e30)  # finite, and no weight
    core.rollback.check_state()
    [told] = core.incidents()
    assert (told.kind, told.place, told.tensors) == (Kind.HEALED, Place.EPOCH_END, ["ema/conv.weight"])
    assert core.raw.state()["ema/conv.weight"].abs().max() < 10


def test_ranks_that_have_drifted_apart_are_made_equal(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.among(TwoRanks([0.0, 1.0, -1.0]))  # sound, and another checksum
    core.rollback.check_state()
    [told] = core.incidents()
    assert (told.kind, told.place, told.remedies) == (Kind.HEALED, Place.RANKS, (Remedy.RANKS_SYNCED,))


def test_what_is_repaired_of_two_ranks_is_named_with_the_rank(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.raw.model.conv.bias.data[0] = math.nan
    core.among(TwoRanks()).objects.append([])
    assert core.rollback.repair_nonfinite() == 1
    [told] = core.incidents()
    assert told.tensors == ["model/conv.bias on rank 0"]
    assert (told.remedies, told.count) == ((Remedy.REPAIRED, Remedy.RANKS_SYNCED), 1), "rank 1 is sound"


# Validation -----------------------------------------------------------------------------------------------------------


def test_a_validation_that_trusted_weights_make_finite_keeps_them(tmp_path):
    core = Core(tmp_path)
    core.train(2)
    then = core.raw.state()
    core.train(2, start=2)
    settle = core.rollback.rescue_validation(4)
    assert not differing(core.raw.state(), then)
    settle(True)
    assert not differing(core.raw.state(), then)
    [told] = core.incidents()
    assert (told.kind, told.place, told.snapshot, told.undone) == (Kind.ROLLBACK, Place.VALIDATION, 2, 2)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("reset_moments", [False, True])
@pytest.mark.parametrize("scaler", [None, 1024.0])
def test_a_validation_that_they_do_not_help_leaves_no_trace(tmp_path, steps, optimizer, reset_moments, scaler):
    core = Core(tmp_path, Tiny(tmp_path, optimizer, scaler), reset_moments=reset_moments)
    core.train(steps)
    before, learnt, scaling = core.raw.state(), core.registry.state_dict(), core.raw.scaler.state_dict()
    assert scaling.get("_growth_tracker", 0) == (steps if scaler else 0), "the scaler has changed since the snapshot"
    settle = core.rollback.rescue_validation(steps)
    assert differing(core.raw.state(), before)
    settle(False)
    assert not differing(core.raw.state(), before)
    assert core.registry.state_dict() == learnt
    assert core.raw.scaler.state_dict() == scaling
    assert not core.incidents()


def test_there_is_nothing_to_rescue_a_validation_with_before_the_first_step(tmp_path):
    assert Core(tmp_path).rollback.rescue_validation(0) is None


def test_training_goes_on_after_a_rescue_as_if_there_had_been_none(tmp_path):
    one, other = Core(tmp_path / "one"), Core(tmp_path / "other")
    for core in (one, other):
        core.train(3)
    one.rollback.rescue_validation(3)(False)
    for core in (one, other):
        core.raw.take(batch_of(9))
    assert not differing(one.raw.state(), other.raw.state())


def test_ten_thousand_steps_of_adamw_are_no_reason_to_look_closer(tmp_path, monkeypatch):
    core = Core(tmp_path, Tiny(tmp_path, torch.optim.AdamW))
    core.train(3)
    for state in core.raw.optimizer.state.values():
        state["step"].fill_(20_000.0)
    looked = []
    monkeypatch.setattr(core.rollback, "repair_nonfinite", lambda place: looked.append(place))
    core.rollback.check_state()
    assert looked == []
