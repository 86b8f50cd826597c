"""Snapshots, and which of them are trusted."""

from __future__ import annotations

import math

import pytest
import torch

from yolo_gradsafe.recovery.snapshot import Snapshot, is_counter, within
from yolo_gradsafe.recovery.snapshot_buffer import SnapshotBuffer


def state() -> dict[str, torch.Tensor]:
    return {"model/w": torch.arange(6.0).reshape(2, 3) + 1, "model/n": torch.tensor(3), "ema/w": torch.ones(2)}


def test_restoring_writes_in_place_and_names_what_came_later():
    live = state()
    snapshot = Snapshot()
    snapshot.take(7, live, {"ema_updates": 7})
    before = {name: t.clone() for name, t in live.items()}
    places = {name: t.data_ptr() for name, t in live.items()}
    for tensor in live.values():
        tensor.zero_()
    live["optimizer/w/exp_avg"] = torch.ones(2)
    assert snapshot.restore(live) == {"optimizer/w/exp_avg"}
    assert all(torch.equal(live[name], before[name]) for name in before)
    assert {name: live[name].data_ptr() for name in places} == places
    assert (snapshot.step, snapshot.extra) == (7, {"ema_updates": 7})


def test_healing_replaces_only_the_elements_that_are_not_finite():
    live = state()
    snapshot = Snapshot()
    snapshot.take(1, live, {})
    live["model/w"] += 10
    live["model/w"][0, 1] = math.nan
    live["optimizer/w/exp_avg"] = torch.tensor([1.0, math.inf])
    assert snapshot.repair_nonfinite(live, {"model/w", "ema/w"}) == ["model/w", "optimizer/w/exp_avg"]
    assert live["model/w"].tolist() == [[11.0, 2.0, 13.0], [14.0, 15.0, 16.0]]
    assert live["optimizer/w/exp_avg"].tolist() == [1.0, 0.0], "zero where the snapshot has none"
    assert snapshot.repair_nonfinite(live, {"model/w", "ema/w"}) == []


def test_a_weight_that_is_blown_up_is_healed_and_takes_the_statistics_with_it():
    live = {
        "model/w": torch.ones(3),
        "model/bn.running_var": torch.ones(3),
        "ema/bn.running_var": torch.ones(3),
        "optimizer/w/exp_avg_sq": torch.ones(3),
    }
    snapshot = Snapshot()
    snapshot.take(1, live, {})
    live["model/w"][1] = 1e30
    live["model/w"][2] = 500.0
    for name in ("model/bn.running_var", "ema/bn.running_var", "optimizer/w/exp_avg_sq"):
        live[name].fill_(1e8)
    assert snapshot.repair_nonfinite(live, {"model/w", "ema/w"}) == ["model/w"]
    assert live["model/w"].tolist() == [1.0, 1.0, 500.0]
    assert live["model/bn.running_var"].tolist() == live["ema/bn.running_var"].tolist() == [1.0] * 3
    assert live["optimizer/w/exp_avg_sq"].tolist() == [1e8] * 3


def test_statistics_and_moments_may_be_large():
    live = {"model/bn.running_var": torch.full((3,), 1e8), "optimizer/w/exp_avg_sq": torch.full((3,), 1e8)}
    snapshot = Snapshot()
    snapshot.take(1, {name: torch.ones(3) for name in live}, {})
    assert snapshot.repair_nonfinite(live, {"model/w", "ema/w"}) == []


@pytest.mark.parametrize(
    ("tensor", "sound"),
    [
        (torch.full((1000,), 99.0), True),  # its norm is over the bound, its elements are not
        (torch.tensor([-100.0, 1.0]), True),
        (torch.tensor([1.0, -100.1]), False),
        (torch.tensor([1.0, math.nan]), False),
        (torch.tensor([-math.inf]), False),
        (torch.tensor([300.0], dtype=torch.float16), False),
        (torch.tensor(3.0e38), False),
        (torch.tensor(10**6), True),  # a count
    ],
)
def test_elements_are_held_against_a_bound(tensor, sound):
    assert within([torch.ones(2, 2), tensor, torch.zeros(())], 100.0) is sound


def test_the_largest_finite_numbers_are_finite():
    largest = torch.finfo(torch.float32).max
    assert within([torch.full((2,), largest)], largest)
    assert not within([torch.full((2,), math.inf)], largest)
    assert within([], largest)


def test_the_drift_is_that_of_the_usual_matrix():
    live = {f"model/{i}": torch.ones(3, 3) for i in range(3)}
    snapshot = Snapshot()
    snapshot.take(1, live, {})
    for tensor in live.values():
        tensor *= 1.5
    live["model/0"] *= 1e10
    assert snapshot.drift(live) == pytest.approx(0.5)
    live["model/0"][:] = math.nan
    assert snapshot.drift(live) == pytest.approx(0.5)


def buffer_of(live, trust: int = 3, slots: int = 3, share: float = 1.0) -> SnapshotBuffer:
    made = SnapshotBuffer(lambda: live, lambda: {}, trust, share, slots)
    made.take_first(0)
    return made


def walk(made: SnapshotBuffer, steps: range) -> list[bool]:
    return [made.count_safe_step(step) for step in steps]


def test_the_first_is_trusted_and_others_after_enough_healthy_steps():
    made = buffer_of(state())
    assert [s.step for s in made.trusted] == [0]
    walk(made, range(1, 6))  # taken at step 3, proven by steps 4 to 6
    assert [s.step for s in made.trusted] == [0]
    walk(made, range(6, 7))
    assert [s.step for s in made.trusted] == [3, 0]


def test_doubt_takes_the_one_on_trial_away():
    made = buffer_of(state())
    walk(made, range(1, 5))
    made.drop_candidate()
    walk(made, range(5, 7))
    assert [s.step for s in made.trusted] == [0]


def test_memory_is_that_of_the_slots():
    made = buffer_of(state(), slots=2)
    for step in range(1, 500):
        made.count_safe_step(step)
        assert 1 <= len(made.trusted) <= 2
    assert made.trusted[0].step > 0


def test_going_back_further_gives_up_the_newest_but_never_the_last():
    made = buffer_of(state())
    walk(made, range(1, 7))
    made.drop_newest()
    assert [s.step for s in made.trusted] == [0]
    made.drop_newest()
    assert [s.step for s in made.trusted] == [0]


def test_a_snapshot_that_is_not_finite_is_never_trusted_and_told_of():
    live = state()
    made = buffer_of(live)
    walk(made, range(1, 3))
    live["ema/w"][0] = math.nan
    assert walk(made, range(3, 7)) == [True, True, True, False]
    assert [s.step for s in made.trusted] == [0]


def test_a_snapshot_that_another_rank_found_wanting_is_given_up():
    made = buffer_of(state(), share=1e9)  # so that their interval does not depend on the clock
    walk(made, range(1, 7))
    made.revoke_newest()
    assert [s.step for s in made.trusted] == [0]
    walk(made, range(7, 500))
    assert len(made.trusted) >= 2, "its memory is used again"


def test_a_poisoned_start_is_not_trusted():
    live = state()
    live["model/w"][0, 0] = math.inf
    assert buffer_of(live).trusted == []


def test_snapshots_are_spaced_to_stay_within_their_share():
    live = {"model/w": torch.randn(2_000_000)}
    made = buffer_of(live, trust=2, share=1e-6)
    walk(made, range(1, 4))
    assert made.interval > 100


def test_a_snapshot_that_the_host_has_no_memory_for_costs_none_that_there_is(monkeypatch):
    live = state()
    made = buffer_of(live, slots=2, share=1e9)  # so that their interval does not depend on the clock
    walk(made, range(1, 20))
    before = [s.step for s in made.trusted]

    def fails(*_):
        raise RuntimeError("CUDA error: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("yolo_gradsafe.recovery.snapshot.HostArena", fails)
        live["optimizer/w/exp_avg"] = torch.ones(2)  # it needs another place than before
        made.drop_candidate()
        walk(made, range(20, 60))
        assert [s.step for s in made.trusted] == before
    walk(made, range(60, 80))
    assert made.trusted[0].step >= 60, "it is tried again"


def test_the_time_of_the_copies_counts_where_they_take_longer_than_to_launch_them(monkeypatch):
    made = buffer_of(state(), trust=2, share=0.01)
    take = Snapshot.take

    def slow(snapshot, *args):
        take(snapshot, *args)
        snapshot.copy_seconds = 100.0

    monkeypatch.setattr(Snapshot, "take", slow)
    walk(made, range(1, 8))
    assert made._take_seconds == 100.0


def test_counters_of_steps_are_never_suspicious():
    live = {"optimizer/w/step": torch.tensor(1e6), "model/w": torch.ones(2)}
    snapshot = Snapshot()
    snapshot.take(1, live, {})
    assert is_counter("optimizer/w/step")
    assert not is_counter("model/step")
    assert snapshot.repair_nonfinite(live, {"model/w", "ema/w"}) == []
    assert live["optimizer/w/step"] == 1e6
