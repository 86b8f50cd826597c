"""Every fault of the drill on rank 0, on rank 1 and on both: ``python -m tests.runs.ddp_drill [FAULT ...]``.

Trains each for eight steps on two gloo ranks of this CPU, prints a table, and ends with 1 if a row is not sound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.runs.ddp import Outcome, Two, run_ranks
from yolo_gradsafe.data.shapes import draw_detect, draw_pose
from yolo_gradsafe.drill.catalogue import SCENARIOS, find

PLACES = {"rank 0": [0], "rank 1": [1], "both": [0, 1]}
_WITHOUT_EFFECT = ("nan-label",)
"""Faults that stay without any effect in so short a training: Ultralytics assigns no prediction to a NaN box."""
_TOGETHER = 6
"""Trainings that share their processes: to start these takes longer than to train."""


def training(name: str, where: str) -> Two:
    """Return the short training of a scenario."""
    scenario = find(name)
    precision = next((p for p in ("fp32", "scaler", "fp16") if scenario.fits("detect", p, "SGD")), "")
    precision = precision or next((p for p in scenario.precisions), "fp32")
    optimizer = scenario.optimizers[0] if scenario.optimizers else "SGD"
    # A run of eight steps has its own length; what belongs to the fault are batch sizes and settings.
    args = {key: value for key, value in scenario.arguments.items() if key != "epochs"}
    args |= {"optimizer": optimizer, "lr0": 0.002 if optimizer == "AdamW" else 0.01, **scenario.wrong}
    if scenario.model:
        args["model"] = scenario.model
    place = where.replace(" ", "")
    return Two(f"{name}-{place}", name if scenario.make else "", PLACES[where], precision, args=args)


def problems(name: str, where: str, outcome: Outcome) -> list[str]:
    """Say what is not as it must be."""
    scenario, ranks = find(name), outcome.ranks
    found = [rank.error.strip().splitlines()[-1] for rank in ranks if rank.error]
    if found:
        return found
    if scenario.make and [bool(rank.fired) for rank in ranks] != [rank in PLACES[where] for rank in (0, 1)]:
        found.append(f"struck {[rank.fired for rank in ranks]}")
    if ranks[0].digests != ranks[1].digests:
        found.append("weights or optimizer state differ")
    if any(rank.not_finite for rank in ranks):
        found.append(f"not finite: {[rank.not_finite for rank in ranks]}")
    if ranks[0].verdicts != ranks[1].verdicts:
        found.append("verdicts differ")
    if "internal_error" in outcome.kinds():
        found.append("internal error")
    seen = outcome.incidents or set(ranks[0].verdicts) - {"ok", "clipped"}
    # What calls for going back shows itself in eight steps only where the ranks come apart.
    slow = bool(scenario.promise.rollbacks) and where == "both"
    if scenario.make and not seen and not slow and name not in _WITHOUT_EFFECT:
        found.append("not recorded")
    return found


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--out", type=Path, default=None)
    told = parser.parse_args()
    out = told.out or Path(tempfile.mkdtemp(prefix="gradsafe-ddp-"))
    data = {
        "detect": draw_detect(out / "data" / "detect", train=16, val=4, size=64),
        "pose": draw_pose(out / "data" / "pose", train=16, val=4, size=64),
    }
    rows = [(name, where) for name in told.faults for where in PLACES]
    # Precisions are set for a whole process.
    rows.sort(key=lambda row: training(*row).precision)
    unsound, started = 0, time.monotonic()
    while rows:
        precision = training(*rows[0]).precision
        some = [row for row in rows[:_TOGETHER] if training(*row).precision == precision]
        outcomes = run_ranks([training(*row) for row in some], data, out, timeout=120 + 60 * len(some))
        for row in some:
            outcome = outcomes[training(*row).name]
            rows.remove(row)
            wrong = problems(*row, outcome)
            unsound += bool(wrong)
            verdicts = " ".join(v for v in outcome.ranks[0].verdicts if v not in ("ok", "clipped"))
            print(f"{row[0]:27} {row[1]:7} {'; '.join(wrong) or 'sound':40} {verdicts} {outcome.kinds()}", flush=True)
            if any(rank.error for rank in outcome.ranks):
                break  # those after it did not run: they come again
    print(f"{unsound} not sound, {time.monotonic() - started:.0f} s, {out}")
    return min(unsound, 1)


if __name__ == "__main__":
    sys.exit(main())
