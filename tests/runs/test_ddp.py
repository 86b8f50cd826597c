"""Two ranks: the same decision in the same step on both, whichever saw the NaN."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import ultralytics

from tests.arm import ROOT

OLD = tuple(map(int, ultralytics.__version__.split(".")[:3])) < (8, 4, 140)


pytestmark = pytest.mark.skipif(OLD, reason="DDP needs Ultralytics 8.4.140")


def run_ranks(data, out, bad_rank: int, fault: str) -> tuple[list[dict], list[dict]]:
    """Train on two ranks with a fault on one, and return what became of each, and the incidents."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    done = subprocess.run(
        [*command, "tests.runs.ddp", str(data), str(out), str(bad_rank), fault],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["fired"] for rank in ranks] == [[bad_rank] if rank == bad_rank else [] for rank in (0, 1)]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert all(rank["not_finite"] == rank["ema_not_finite"] == 0 for rank in ranks)
    lines = (out / "train" / "stability" / "incidents.jsonl").read_text().splitlines()
    return ranks, [json.loads(line) for line in lines]


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_a_nan_on_one_rank_is_skipped_on_both(drawn, tmp_path, bad_rank):
    ranks, incidents = run_ranks(drawn["detect"], tmp_path, bad_rank, "pixel")
    assert ranks[0]["verdicts"] == ranks[1]["verdicts"] == ["clipped", "bad_batch", "clipped", "clipped"]
    assert [incident["kind"] for incident in incidents] == ["bad_batch"]
    assert incidents[0]["cause"] == "data", "every rank knows what one of them found"


def test_a_poisoned_average_on_one_rank_is_healed_on_that_rank(drawn, tmp_path):
    ranks, incidents = run_ranks(drawn["detect"], tmp_path, 1, "ema")
    assert ranks[0]["verdicts"] == ranks[1]["verdicts"] == ["clipped"] * 4
    assert [incident["kind"] for incident in incidents] == ["healed"]
    assert "on another rank" in incidents[0]["message"]


def test_poisoned_statistics_on_one_rank_are_put_back_there(drawn, tmp_path):
    ranks, incidents = run_ranks(drawn["detect"], tmp_path, 1, "batch-norm")
    assert ranks[0]["verdicts"] == ranks[1]["verdicts"] == ["clipped", "poisoned", "clipped", "clipped"]
    assert [incident["kind"] for incident in incidents] == ["poisoned"]
