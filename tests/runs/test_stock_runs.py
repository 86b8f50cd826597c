"""Post-mortems of real stock trainings: healthy, NaN, collapsed, redone, killed, resumed, of several tasks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.arm import DETECT, POSE, Arm, run_arm
from yolo_gradsafe.cli import app
from yolo_gradsafe.data.shapes import draw_detect, draw_pose

pytestmark = pytest.mark.slow

SEGMENT, CLASSIFY = DETECT.replace("n.", "n-seg."), DETECT.replace("n.", "n-cls.")
FAST = {"optimizer": "AdamW", "imgsz": 96, "batch": 6, "nbs": 6, "warmup_epochs": 3}

NAN_FROM_EPOCH_2 = """
def poison(trainer):
    preprocess = trainer.preprocess_batch
    def poisoned(batch):
        batch = preprocess(batch)
        if trainer.epoch >= 1:
            batch["img"][0, 0, 0, 0] = float("nan")
        return batch
    trainer.preprocess_batch = poisoned
callbacks.setdefault("on_train_start", []).append(poison)
"""
NAN_ONCE = """
state = {"left": 1}
def poison(trainer):
    preprocess = trainer.preprocess_batch
    def poisoned(batch):
        batch = preprocess(batch)
        if trainer.epoch == 2 and state["left"]:
            state["left"] = 0
            batch["img"][0, 0, 0, 0] = float("nan")
        return batch
    trainer.preprocess_batch = poisoned
callbacks.setdefault("on_train_start", []).append(poison)
"""
KILLED = """
import os
def kill(trainer):
    if trainer.epoch == 3:
        from pathlib import Path
        (Path(trainer.save_dir).parent / "report.json").write_text('{"error": "killed", "digests": {}, '
            '"not_finite": {}, "fired": [], "events": {}}')
        os._exit(9)
callbacks.setdefault("on_train_epoch_start", []).append(kill)
"""


def at_the_end(statement: str) -> str:
    """Return code that does something to model and EMA after the last epoch's batches, before validation."""
    return f"""
def spoil(trainer):
    if trainer.epoch + 1 == trainer.epochs:
        for model in (trainer.model, trainer.ema.ema):
            with torch.no_grad():
                {statement}
callbacks.setdefault("on_train_epoch_end", []).append(spoil)
"""


def segment_set(folder: Path) -> Path:
    data = draw_detect(folder, train=8, val=4, size=64)
    for label in (folder / "labels").rglob("*.txt"):
        rows = []
        for line in label.read_text().splitlines():
            kind, x, y, w, h = line.split()[0], *map(float, line.split()[1:5])
            corners = [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)]
            rows.append(" ".join([kind, *(f"{min(max(v, 0), 1):.6f}" for corner in corners for v in corner)]))
        label.write_text("\n".join(rows) + "\n")
    return data


def classify_set(folder: Path) -> Path:
    source = draw_detect(folder / "source", train=8, val=4, size=64).parent
    for split in ("train", "val"):
        for k, image in enumerate(sorted((source / "images" / split).iterdir())):
            place = folder / "set" / split / ("one", "two")[k % 2]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, place)
    return folder / "set"


def unlabelled(folder: Path) -> Path:
    data = draw_detect(folder, train=8, val=4, size=64)
    for label in (folder / "labels" / "train").glob("*.txt"):
        label.write_text("")
    return data


def detect(folder: Path) -> Path:
    return draw_detect(folder, train=8, val=4, size=64)


def larger(folder: Path) -> Path:
    return draw_detect(folder, train=48, val=16, size=96)


def pose(folder: Path) -> Path:
    return draw_pose(folder, train=8, val=4, size=64)


RUNS = {
    # name: (data, model, arguments, code), then (status, health, findings that there must be)
    "short": ((detect, DETECT, {}, ""), ("finished", "healthy", set())),
    "learns": ((larger, DETECT, {**FAST, "epochs": 8, "lr0": 0.01}, ""), ("finished", "healthy", set())),
    "pose": ((pose, POSE, {}, ""), ("finished", "healthy", set())),
    "segment": ((segment_set, SEGMENT, {}, ""), ("finished", "healthy", set())),
    "classify": ((classify_set, CLASSIFY, {}, ""), ("finished", "healthy", set())),
    "no validation": ((detect, DETECT, {"val": False, "epochs": 6}, ""), ("finished", "healthy", set())),
    "patience": (
        (larger, DETECT, {**FAST, "epochs": 8, "lr0": 0.01, "patience": 1}, ""), ("finished", "healthy", set())
    ),
    "nan for good": ((detect, DETECT, {"epochs": 5}, NAN_FROM_EPOCH_2), ("unfinished", "healthy", set())),
    "nan once": ((detect, DETECT, {"epochs": 4}, NAN_ONCE), ("finished", "healthy", set())),
    "killed": ((detect, DETECT, {"epochs": 6}, KILLED), ("unfinished", "healthy", set())),
    "rate of 0.1": (
        (larger, DETECT, {**FAST, "epochs": 8, "lr0": 0.1}, ""), ("finished", "survived", {"validation_absurd"})
    ),
    "nan weights": (
        (detect, DETECT, {"epochs": 3}, at_the_end("model.model[2].cv1.conv.weight.fill_(float('nan'))")),
        ("finished", "failed", {"damaged_last"}),
    ),
    "inf weights": (
        (detect, DETECT, {"epochs": 3}, at_the_end("model.model[2].cv1.bn.weight.fill_(float('inf'))")),
        ("finished", "failed", {"damaged_last"}),
    ),
    "statistics": (
        (detect, DETECT, {"epochs": 3}, at_the_end("model.model[4].cv1.bn.running_var.fill_(5e4)")),
        ("finished", "failed", {"batchnorm"}),
    ),
    "no labels": ((unlabelled, DETECT, {"epochs": 12}, ""), ("finished", "survived", {"never_rose"})),
    "collapsed": (
        (larger, DETECT, {**FAST, "epochs": 8, "lr0": 0.01}, at_the_end("model.model[0].conv.weight.mul_(0)")),
        ("finished", "failed", {"collapsed"}),
    ),
}  # fmt: skip


def post_mortem(run: Path) -> dict:
    folder = run.parents[1] if run.is_file() else run
    os.utime(folder / "results.csv", (1, 1))  # what was written just now may still be running
    done = CliRunner().invoke(app, ["report", str(run), "--format", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def serious(found: dict) -> set[str]:
    return {finding["kind"] for finding in found["findings"] if finding["severity"] != "note"}


@pytest.mark.parametrize("name", RUNS)
def test_what_is_on_record_is_judged_right(name, tmp_path):
    (data, model, arguments, code), (status, health, kinds) = RUNS[name]
    result = run_arm(Arm(str(data(tmp_path / "data")), model, args=arguments, code=code), tmp_path / "run")
    found = post_mortem(result.run)
    print(name, json.dumps(found, indent=1))
    assert (found["status"], found["health"]) == (status, health), found
    assert kinds <= serious(found)
    assert bool(found["advice"]) is (health != "healthy" or status == "unfinished")
    assert ("Nothing wrong is on record" in found["headline"]) is (health == "healthy")


def test_a_run_that_was_killed_and_resumed(tmp_path):
    data = detect(tmp_path / "data")
    run_arm(Arm(str(data), args={"epochs": 4}, code=KILLED), tmp_path / "run")
    last = tmp_path / "run" / "train" / "weights" / "last.pt"
    assert post_mortem(last)["advice"][0]["command"] == f"gradsafe train model={last} resume=True"
    run_arm(Arm(str(data), str(last), args={"resume": True}), tmp_path / "run")
    found = post_mortem(last.parents[1])
    assert (found["status"], found["health"], found["epochs"]) == ("finished", "healthy", 4)
