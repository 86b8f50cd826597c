"""What a real run writes."""

from __future__ import annotations

import csv
import json

import yaml

from tests.arm import POSE, Arm
from yolo_gradsafe import Config


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_of_a_pose_run(train, drawn):
    guard = {"telemetry": {"update_ratio_steps": 2}, "clip": {"max_norm": 20.0}}
    result = train(Arm(str(drawn["pose"]), POSE, {"plots": True, "lr0": 0.01}, guard=guard, nan_pixel=[(2, 2)]))
    assert result.error == ""
    folder = result.run / "stability"

    steps = rows(folder / "steps.csv")
    assert [int(row["step"]) for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [(int(row["epoch"]), int(row["batch"])) for row in steps] == [(e, b) for e in (1, 2, 3) for b in (1, 2)]
    for row in steps:
        if row["verdict"] == "clipped":
            parts = sum(float(row[name]) ** 2 for name in row if name.startswith("norm/")) ** 0.5
            assert abs(parts / float(row["grad_norm"]) - 1) < 1e-4, "the stages' norms make up the whole"
            assert abs(float(row["clip_scale"]) * float(row["grad_norm"]) / 20.0 - 1) < 1e-4
    assert {"norm/backbone", "norm/neck", "norm/head.box", "norm/head.class", "norm/head.keypoint"} <= set(steps[0])

    assert [0 < float(row["update_ratio"]) < 0.1 for row in steps] == [False, False, True, True, False, True], (
        "nothing has moved before the second step: the first has a rate of 0; nor by the fourth, which is skipped"
    )

    layers = rows(folder / "layers.csv")
    assert {row["epoch"] for row in layers} == {"1", "2", "3"}
    last = [row for row in layers if row["epoch"] == "3"]
    assert abs(sum(float(row["share"]) for row in last) - 1) < 1e-4
    assert any(0 < float(row["update_ratio"]) < 1 for row in layers), "sampled every second step"

    assert Config.load(folder / "options.yaml") == Config.load(guard)
    summary = json.loads((result.run / "stability.json").read_text())
    assert (summary["health"], summary["threshold"]) == ("survived", 20.0)
    assert (result.run / "stability.png").stat().st_size > 10_000
    assert (result.run / "results.png").is_file(), "our columns do not disturb Ultralytics' own plot"

    header = list(result.results[0])
    ours = [name for name in header if name.startswith("gradsafe/")]
    assert ours == header[-len(ours) :]
    assert not any("loss" in name or "metric" in name for name in ours)
    assert not list(result.run.glob("results*.csv"))[1:]
    assert "gradsafe" not in yaml.safe_load((result.run / "args.yaml").read_text())


DIE_IN_EPOCH_2 = """
def die(trainer):
    if trainer.epoch == 1:
        raise RuntimeError("stopped")
callbacks.setdefault("on_train_epoch_start", []).append(die)
"""


def resume(train, drawn, guard, resumed_guard):
    """Train one epoch of three, then resume for the others."""
    first = train(Arm(str(drawn["detect"]), guard=guard, code=DIE_IN_EPOCH_2))
    assert first.error == "RuntimeError: stopped"
    last = first.run / "weights" / "last.pt"
    resumed = train(Arm(str(drawn["detect"]), str(last), {"resume": True}, guard=resumed_guard))
    assert resumed.error == ""
    lengths = {len(line.split(",")) for line in (resumed.run / "results.csv").read_text().splitlines()}
    assert len(lengths) == 1, "results.csv stays rectangular"
    assert [row["epoch"] for row in resumed.results] == ["1", "2", "3"]
    return resumed


def test_a_stock_run_can_be_resumed_with_the_guard(train, drawn):
    resumed = resume(train, drawn, None, {})
    assert [int(row["step"]) for row in resumed.steps] == [1, 2, 3, 4]


def test_a_guarded_run_goes_on_where_it_was(train, drawn):
    guard = {"clip": {"mode": "auto", "warmup_steps": 2, "max_norm": 10.0}}
    resumed = resume(train, drawn, guard, guard)
    assert [int(row["step"]) for row in resumed.steps] == [1, 2, 3, 4, 5, 6]
    thresholds = [float(row["threshold"]) for row in resumed.steps]
    assert thresholds[:2] == [10.0, 10.0]
    assert all(threshold > 10.0 for threshold in thresholds[2:]), "the warm-up is not made again"


def test_a_damaged_state_is_said_and_left_aside(train, drawn, tmp_path):
    state = tmp_path / "run" / "train" / "stability" / "state.json"
    spoil = f"import pathlib; p = pathlib.Path(r'{state}'); p.exists() and p.write_text('{{')\n"
    first = train(Arm(str(drawn["detect"]), guard={}, code=DIE_IN_EPOCH_2))
    last = first.run / "weights" / "last.pt"
    resumed = train(Arm(str(drawn["detect"]), str(last), {"resume": True}, guard={}, code=spoil))
    assert resumed.error == ""
    assert "clipping and recovery start from the beginning" in resumed.log
    assert len(resumed.steps) == 6
