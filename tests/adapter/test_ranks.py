"""What ranks agree on, and that none waits for one that has failed: between two real processes, and alone."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from yolo_gradsafe.adapter.ranks import RankFailed, Ranks


def _both(rank: int, folder: str) -> None:
    """Go through all of it on one of two ranks, and write down what was seen."""
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=30))
    ranks, seen = Ranks(torch.device("cpu")), {}
    seen["largest"] = ranks.all_reduce_max([rank, -rank, 5])
    seen["nan"] = ranks.all_reduce_max([math.nan if rank else 0.0])
    seen["smallest"] = ranks.all_reduce_min(float(rank))
    seen["gathered"] = ranks.gather_objects({"rank": rank})
    seen["same"] = ranks.broadcast_object(["from", rank])

    def error(closing: bool, at: int) -> str:
        try:
            with ranks.collective(closing):
                with suppress(RankFailed), ranks.collective():  # what is contained within is no fault of the whole
                    ranks.all_reduce_max([0.0])
                if rank == at:
                    raise KeyError("planted")
                if not closing:
                    ranks.all_reduce_max([1.0, 2.0])
        except Exception as caught:
            return type(caught).__name__
        return "none"

    seen["closing"] = [error(True, 0), error(True, 1), error(True, 2)]
    seen["waiting"] = error(False, 1)
    try:
        with ranks.collective(), ranks.collective():
            if rank:
                raise KeyError("once")
    except (KeyError, RankFailed) as caught:
        seen["nested"] = type(caught).__name__
    tensors = {"a": torch.full((3, 2), float(rank)).t(), "b": torch.tensor([rank])}
    seen["shared"] = ranks.broadcast_tensors(tensors, cost=-rank), tensors["a"].tolist(), tensors["b"].tolist()
    first = {"a": torch.full((2,), float(rank))}
    seen["first"] = ranks.broadcast_tensors(first, cost=math.nan), first["a"].tolist()
    unlike = {"a": torch.full((1 + rank,), float(rank))}
    seen["unlike"] = ranks.broadcast_tensors(unlike), unlike["a"].tolist()
    seen["still together"] = ranks.all_reduce_max([7.0])
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))
    store.set(f"done {rank}", "")
    store.wait(["done 0", "done 1"])  # who leaves early takes the connection along
    os._exit(0)  # gloo's own end waits for the other's now and then, for ever (torch 2.6)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    processes.spawn(_both, args=(str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("largest", [1, 0, 5]),
        ("nan", [math.inf]),
        ("smallest", 0.0),
        ("gathered", [{"rank": 0}, {"rank": 1}]),
        ("same", ["from", 0]),
        ("still together", [7.0]),
    ],
)
def test_all_ranks_hear_the_same(seen, what, expected):
    assert seen[0][what] == seen[1][what] == expected


def test_what_fails_on_one_rank_fails_on_all(seen):
    assert seen[0]["closing"] == ["KeyError", "RankFailed", "none"]
    assert seen[1]["closing"] == ["RankFailed", "KeyError", "none"]


def test_a_rank_that_waits_for_an_answer_hears_of_the_failure_instead(seen):
    assert [rank["waiting"] for rank in seen] == ["RankFailed", "KeyError"]


def test_a_failure_is_told_once_however_deep_it_is(seen):
    assert [rank["nested"] for rank in seen] == ["RankFailed", "KeyError"]


def test_tensors_come_from_the_rank_of_the_lowest_cost(seen):
    assert seen[0]["shared"] == seen[1]["shared"] == [True, [[1.0] * 3] * 2, [1]]
    assert seen[0]["first"] == seen[1]["first"] == [True, [0.0, 0.0]], "of ranks that are worth the same the first"


def test_tensors_that_do_not_match_are_left_alone(seen):
    assert [rank["unlike"] for rank in seen] == [[False, [0.0]], [False, [1.0, 1.0]]]


def test_a_lone_process_agrees_with_itself():
    ranks = Ranks(torch.device("cpu"))
    assert not ranks.several
    assert ranks.all_reduce_max([3.0, -1.0]) == [3.0, -1.0]
    assert ranks.gather_objects("x") == ["x"]
    assert ranks.broadcast_object("x") == "x"
    assert ranks.broadcast_tensors({"a": torch.ones(1)})
    with pytest.raises(KeyError), ranks.collective():
        raise KeyError("its own error")
