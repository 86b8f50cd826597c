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


def test_a_resumed_run_without_our_columns_stays_rectangular(train, drawn, tmp_path):
    stop = (
        "def die(trainer):\n"
        "    if trainer.epoch == 1: raise KeyboardInterrupt\n"
        "callbacks.setdefault('on_train_epoch_start', []).append(die)\n"
        "import ultralytics\n"
    )
    stock = Arm(str(drawn["detect"]), code=stop.replace("KeyboardInterrupt", "RuntimeError('stopped')"))
    first = train(stock, "run")
    assert first.error.startswith("RuntimeError")
    last = first.run / "weights" / "last.pt"
    resumed = train(Arm(str(drawn["detect"]), str(last), {"resume": True}, guard={}), "run")
    assert resumed.error == ""
    lengths = {len(line.split(",")) for line in (resumed.run / "results.csv").read_text().splitlines()}
    assert len(lengths) == 1
    assert [row["epoch"] for row in resumed.results] == ["1", "2", "3"]
    assert len(resumed.steps) == 4
