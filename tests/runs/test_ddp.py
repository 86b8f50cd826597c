"""Two ranks: the same decisions in the same steps on both, whichever saw the fault, and no waiting for one that failed.

The trainings of this file share their processes, because to start these takes longer than to train.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import ultralytics

from tests.runs import ddp_drill
from tests.runs.ddp import Two, run_ranks
from yolo_gradsafe.data.shapes import draw_detect

OLD = tuple(map(int, ultralytics.__version__.split(".")[:3])) < (8, 4, 89)
pytestmark = pytest.mark.skipif(OLD, reason="up to 8.4.88 rank 0's batch-norm statistics are everybody's")

SHORT = {"epochs": 1}
CLIP = "yolo_gradsafe.clipping.rules.norm:NormClipper.clip_"
TREAT = "yolo_gradsafe.recovery.manager:RecoveryManager.handle_bad_step"
TRAININGS = [
    Two("healthy"),
    Two("pixel", "poisonous-image", [1], guard={"forensics": {"quarantine": 1}}),
    Two("average", "nan-ema-weight", [1], args=SHORT),
    Two("clipper", broken=CLIP, calls=[2], on=1, args=SHORT),
    Two("treatment", "nan-pixel", [1], broken=TREAT, calls=[1], on=0, args=SHORT),
    Two("start", broken="yolo_gradsafe.session:Session.start", on=1, args=SHORT),
]

STRUCK = [
    ("nan-micro-batches", "rank 1"),
    ("nan-backbone", "rank 0"),
    ("nan-loss-last-batch", "rank 1"),
    ("nan-gradient", "rank 1"),
    ("flipped-weight", "rank 1"),
    ("nan-weight", "rank 0"),
    ("inf-running-var", "both"),
    ("nan-momentum", "rank 1"),
    ("learning-rate-jump", "rank 0"),
    ("zero-scale", "rank 1"),
    ("inf-scale", "rank 0"),
    ("diverging-musgd", "both"),
]
"""Some of what ``python -m tests.runs.ddp_drill`` does."""


@pytest.fixture(scope="module")
def two(made_once):
    """What became of the trainings, by name."""

    def train(folder):
        data = {"detect": draw_detect(folder / "data", train=16, val=4, size=64)}
        return run_ranks(TRAININGS, data, folder)

    return made_once("ddp", train)


def test_a_healthy_step_costs_one_message(two):
    two["healthy"].check()
    [before, second, third, after_epoch, *_, last] = [*two["healthy"].ranks[0].messages[:4], 1]
    assert [second, third, after_epoch, last] == [1, 1, 1, 1]
    assert before <= 4, "to start, and for the first snapshot"
    assert two["healthy"].ranks[0].messages[4] <= 5, "at the end of an epoch: its state, its validation"
    assert [rank.others for rank in two["healthy"].ranks] == [0, 0]
    assert two["healthy"].incidents == []


def test_a_nan_on_one_rank_is_skipped_on_both_and_the_image_is_that_ranks(two):
    outcome = two["pixel"]
    outcome.check()
    [guilty] = outcome.ranks[1].quarantined
    first = outcome.incidents[0]
    assert (first["kind"], first["cause"], first["images"]) == ("bad_batch", "preprocessing", [guilty])
    assert "(rank 1)" in first["message"]
    assert Path(guilty).name in first["culprit"]
    assert (outcome.run / first["picture"]).is_file()


def test_an_image_in_quarantine_is_left_out_on_every_rank(two):
    ranks = two["pixel"].ranks
    assert ranks[0].quarantined == ranks[1].quarantined != []
    assert (two["pixel"].run / "stability" / "quarantine.txt").read_text().split() == ranks[1].quarantined


def test_a_poisoned_average_is_taken_from_the_rank_where_it_is_sound(two):
    two["average"].check()
    [incident] = two["average"].incidents
    assert incident["kind"] == "healed"
    assert "on rank 1" in incident["message"]
    assert "the weights of rank 0" in incident["action"]


def test_a_fault_of_ours_in_one_ranks_clipping_leaves_the_weights_equal(two):
    ranks = two["clipper"].ranks
    assert [rank.raised for rank in ranks] == [0, 1]
    assert [rank.error for rank in ranks] == ["", ""]
    assert ranks[0].digests == ranks[1].digests
    assert two["clipper"].kinds() == ["internal_error"], "rank 0 tells of what happened on rank 1"


def test_a_fault_of_ours_in_the_middle_of_a_treatment_is_one_on_all_ranks(two):
    two["treatment"].check()
    assert two["treatment"].ranks[0].verdicts.count("bad_batch") == 1
    assert two["treatment"].kinds() == ["internal_error", "bad_batch", "internal_error"]


def test_a_guard_that_cannot_start_on_one_rank_starts_on_none(two):
    two["start"].check()
    assert [rank.verdicts for rank in two["start"].ranks] == [[], []]


@pytest.fixture(scope="module")
def struck(tmp_path_factory):
    """What became of trainings with a fault of the drill, by fault and place."""
    folder = tmp_path_factory.mktemp("drill")
    data = {"detect": draw_detect(folder / "data", train=16, val=4, size=64)}
    outcomes = run_ranks([ddp_drill.training(*row) for row in STRUCK], data, folder, timeout=500)
    return dict(zip(STRUCK, outcomes.values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("row", STRUCK, ids=" on ".join)
def test_a_fault_of_the_drill_on_some_of_the_ranks(struck, row):
    assert ddp_drill.problems(*row, struck[row]) == []


@pytest.mark.slow
def test_machines_with_one_rank_each(tmp_path):
    """Both ranks have the local rank 0: what is rank 0's alone must not go by that."""
    data = {"detect": draw_detect(tmp_path / "data", train=16, val=4, size=64)}
    training = Two("nodes", "nan-pixel", [1], args=SHORT)
    outcome = run_ranks([training], data, tmp_path, nodes=2)["nodes"]
    outcome.check()
    [incident] = outcome.incidents
    assert "(rank 1)" in incident["message"]
    assert incident["picture"].endswith("_r1.jpg")


@pytest.mark.slow
def test_every_rank_goes_on_from_the_same_state(tmp_path):
    data = {"detect": draw_detect(tmp_path / "data", train=16, val=4, size=64)}
    zscore = {"clip": {"mode": "zscore"}}
    first = run_ranks([Two("first", guard=zscore, args={"save_period": 1})], data, tmp_path)["first"]
    first.check()
    last = first.run / "weights" / "epoch0.pt"
    again = Two("first", "nan-pixel-very-last", [1], args={"resume": str(last)}, guard=zscore)
    resumed = run_ranks([again], data, tmp_path)["first"]
    resumed.check()
    steps = (resumed.run / "stability" / "steps.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in steps] == [str(step) for step in range(1, 9)]
    assert len({str(rank.verdicts) for rank in resumed.ranks}) == 1
    assert torch.load(last, weights_only=False)["epoch"] == 0
