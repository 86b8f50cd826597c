"""A fault of the plugin on one rank is told with the next step, and all are made equal again."""

from __future__ import annotations

import json

import pytest
import torch

from tests.fake_trainer import Core, TwoRanks, batch_of
from yolo_gradsafe.rank_sync import RankFlags
from yolo_gradsafe.telemetry.schema import Kind, Place, Remedy

HEALTHY = [0.0, 0.0, 0.0, 2.0, 0.0, 1.0, -1.0]


@pytest.mark.parametrize("flags", [RankFlags(), RankFlags(True), RankFlags(False, True, 37)])
def test_flags_survive_the_message(flags):
    assert RankFlags.unpack(flags.pack()) == flags


def test_of_two_ranks_flags_each_counts():
    ours, theirs = RankFlags(False, True, 20), RankFlags(True, False, 30)
    agreed = [max(pair) for pair in zip(ours.pack(), theirs.pack(), strict=True)]
    assert RankFlags.unpack(agreed) == RankFlags(True, True, 30)


def test_a_fault_of_ones_own_is_told_with_the_next_step(tmp_path):
    core = Core(tmp_path)
    assert not core.sync.local_flags().failed
    with core.sync.local("clip"):
        raise ValueError("planted")
    assert core.sync.local_flags().failed
    assert core.session.boundary.faults == {"clip": 1}
    core.raw.take(batch_of(1))
    assert not core.sync.local_flags().failed, "it was told"


def test_the_second_fault_at_a_place_is_told_as_well(tmp_path):
    core = Core(tmp_path)
    for _ in range(2):
        with core.sync.local("clip"):
            raise ValueError("planted")
        assert core.sync.local_flags().failed
        core.sync.apply(RankFlags(), 0)
        assert not core.sync.local_flags().failed


def test_a_lone_process_has_nobody_to_be_levelled_with(tmp_path):
    core = Core(tmp_path)
    core.train(4)
    core.sync.apply(RankFlags(failed=True, snapshot_interval=2), 4)
    assert not core.incidents()
    assert core.rollback.trusted.step == 2, "and its snapshots are as good as before"


def test_ranks_are_levelled_by_what_rank_0_has_learnt(tmp_path):
    core, rank_0 = Core(tmp_path / "1"), Core(tmp_path / "0")
    rank_0.train(6)
    rank_0.recovery.rate._lr.lower()
    core.train(2)
    core.among(TwoRanks()).rank_0 = rank_0.registry.state_dict()
    assert core.registry.state_dict() != rank_0.registry.state_dict()
    core.sync.apply(RankFlags(failed=True, snapshot_interval=2), steps=2)
    assert core.registry.state_dict() == rank_0.registry.state_dict()
    assert core.recovery.rate.factor == pytest.approx(0.1)
    assert [s.step for s in core.rollback._buffer.trusted] == [2], "the snapshots were of ranks that differed"
    [told] = core.incidents()
    assert (told.kind, told.place, told.remedies) == (Kind.INTERNAL_ERROR, Place.RANKS, (Remedy.RANKS_SYNCED,))


def test_what_is_learnt_fits_into_the_message(tmp_path):
    core = Core(tmp_path)
    core.train(25)
    json.dumps(core.registry.state_dict(), allow_nan=False)


def test_the_weights_come_from_rank_0_as_well(tmp_path):
    core, taken = Core(tmp_path), []
    core.among(TwoRanks()).broadcast_tensors = lambda tensors, cost=0.0: taken.extend(tensors) or True
    core.sync.apply(RankFlags(failed=True), steps=0)
    assert {"model/conv.weight", "ema/head.bias", "updates"} <= set(taken)


def test_a_step_tells_and_hears_the_flags(tmp_path):
    core = Core(tmp_path)
    ranks = core.among(TwoRanks([*HEALTHY, 1.0, 0.0, 9.0]))
    core.raw.take(batch_of(1))
    assert ranks.heard[0][-3:] == [0.0, 0.0, 2.0], "its own: no fault, a sound snapshot, one every two steps"
    assert [i.place for i in core.incidents()] == [Place.RANKS], "and the other had failed"


def test_snapshots_are_taken_as_rarely_as_the_slowest_rank_needs(tmp_path):
    core = Core(tmp_path)
    core.sync.apply(RankFlags(snapshot_interval=9), 0)
    assert core.rollback.snapshot_interval == 9
    core.train(8)
    assert core.rollback.trusted.step == 0
    core.train(3, start=8)
    assert core.rollback.trusted.step == 9


@pytest.mark.parametrize("ours", [True, False])
def test_what_an_unsound_snapshot_was_taken_of_is_repaired(tmp_path, ours):
    core = Core(tmp_path)
    core.train(6)
    core.rollback.unsound_snapshot = ours
    core.raw.ema.ema.head.weight.data[0, 0] = torch.nan
    core.sync.apply(core.sync.local_flags() if ours else RankFlags(unsound_snapshot=True, snapshot_interval=2), 6)
    assert [(i.kind, i.place) for i in core.incidents()] == [(Kind.HEALED, Place.SNAPSHOT)]
    assert core.raw.ema.ema.head.weight.isfinite().all()
    assert not core.sync.local_flags().unsound_snapshot
    assert core.rollback.trusted.step == (4 if ours else 2), "another rank's is given up here, too"


def test_a_snapshot_that_is_not_finite_is_told_of(tmp_path):
    core = Core(tmp_path)
    core.train(1)
    core.raw.ema.ema.head.weight.data[0, 0] = torch.nan  # nothing looks at it in a healthy step
    core.train(3, start=1)
    assert core.sync.local_flags().unsound_snapshot
    core.train(1, start=4)
    assert [i.place for i in core.incidents()] == [Place.SNAPSHOT]
    assert core.raw.ema.ema.head.weight.isfinite().all()


def test_that_another_rank_failed_ends_what_is_done_together_and_nothing_else(tmp_path):
    core = Core(tmp_path)
    ranks = core.among(TwoRanks())
    done = []
    with core.sync.collective("look into a bad step"):
        ranks.failed = True
        ranks.all_reduce_max([1.0])
        done.append("what follows")
    ranks.failed = False
    assert not done
    assert core.session.boundary.faults == {"look into a bad step": 1}
    assert core.sync.local_flags().failed, "it did not do its part either"


def test_that_a_rank_fails_in_what_is_done_together_is_told_to_the_others_at_once(tmp_path):
    core, told = Core(tmp_path), []
    core.among(TwoRanks())._exchange = lambda values, failed: told.append(failed)
    with core.sync.collective("look into a bad step"):
        raise MemoryError("planted")
    assert told == [True]
