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


@pytest.mark.skipif(OLD, reason="DDP needs Ultralytics 8.4.140")
@pytest.mark.parametrize("bad_rank", [0, 1])
def test_a_nan_on_one_rank_is_skipped_on_both(drawn, tmp_path, bad_rank):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    done = subprocess.run(
        [*command, "tests.runs.ddp", str(drawn["detect"]), str(tmp_path), str(bad_rank)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["fired"] for rank in ranks] == [[bad_rank] if rank == bad_rank else [] for rank in (0, 1)]
    assert ranks[0]["verdicts"] == ranks[1]["verdicts"] == ["clipped", "bad_batch", "clipped", "clipped"]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert all(rank["not_finite"] == rank["ema_not_finite"] == 0 for rank in ranks)
    incidents = (tmp_path / "train" / "stability" / "incidents.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in incidents] == ["bad_batch"]
