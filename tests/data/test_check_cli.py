"""``gradsafe check`` and ``gradsafe train data=annotations.json``, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arm import POSE, ROOT
from tests.data.sets import coco_set, yolo_set
from tests.test_cli import TINY, gradsafe
from yolo_gradsafe.data import Health


def test_check_a_sick_set(tmp_path: Path) -> None:
    data = yolo_set(tmp_path / "set", {"bad": "0 nan 0.5 0.1 0.1\n0 0.5 0.5 0 0"})
    done = gradsafe("check", str(data), "--out", "found", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "2 errors (1 label_nonfinite, 1 box_degenerate)" in done.stdout
    assert "bad.txt:1: column 2 is nan" in done.stdout
    assert done.stderr == ""
    assert Health.load(tmp_path / "found" / "health.json").errors == 2
    assert (tmp_path / "found" / "health.jpg").stat().st_size > 5000


def test_check_as_json(tmp_path: Path) -> None:
    done = gradsafe("check", str(yolo_set(tmp_path / "set")), "--json", "--imgsz", "320", "--batch", "4", cwd=tmp_path)
    assert done.returncode == 0
    health = Health.model_validate_json(done.stdout)
    assert (health.imgsz, health.batch, health.errors) == (320, 4, 0)
    assert json.loads(done.stdout)["schema_version"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set"], "nothing is written that was not asked for"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "no such file"),
        (["set/data.yaml", "--imgsz", "0"], "imgsz"),
        (["set/data.yaml", "--batch", "many"], "batch"),
        (["set/data.yaml", "--task", "classify"], "expected one of detect, pose, segment, obb"),
        ([], "DATA"),
        (["set/data.yaml", "--out", "set/data.yaml/x"], "error"),
    ],
)
def test_wrong_arguments_have_exit_code_2(tmp_path: Path, words: list[str], message: str) -> None:
    yolo_set(tmp_path / "set")
    done = gradsafe("check", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_the_check_needs_no_torch() -> None:
    code = (
        "import sys, yolo_gradsafe.data, yolo_gradsafe.data.health_table;"
        "assert not {'torch', 'ultralytics', 'polars', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_train_on_coco_json(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSAFE_CACHE", str(tmp_path / "cache"))
    annotations = coco / "coco-keypoints" / "annotations.json"
    words = [f"data={annotations}", f"model={POSE}", *TINY, f"project={tmp_path}", "name=run"]
    done = gradsafe("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    assert "converted annotations.json" in log
    assert "4 train images with 12 objects" in log
    assert "14 annotations: 12 labels, 2 left out (2 keypoint_none)" in log
    assert "validation runs on the training images" in log
    assert (tmp_path / "run" / "stability.json").is_file()


def test_the_first_word_about_rows_that_cannot_be_read_is_ours(tmp_path: Path) -> None:
    data = yolo_set(tmp_path / "set")
    for label in tmp_path.glob("set/labels/*/*.txt"):
        label.write_text("0 0.5 0.5 0.25 0.5 0.9\n")
    words = [f"data={data}", "model=yolo26n.yaml", *TINY, f"project={tmp_path}", "name=run"]
    done = gradsafe("train", *words, cwd=tmp_path)
    assert done.returncode == 1
    log = done.stdout + done.stderr
    assert log.index("3 label_columns") < log.index("Scanning")
    assert "6 columns, expected 5" in log.split("Scanning")[0]


def test_train_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSAFE_CACHE", str(tmp_path / "cache"))
    for split in ("train", "valid"):
        coco_set(tmp_path / "set" / split).rename(tmp_path / "set" / split / "_annotations.coco.json")
    done = gradsafe("train", "data=set", "model=yolo26n.yaml", *TINY, f"project={tmp_path}", "name=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    assert "converted set" in log
    assert "4 annotations: 4 labels, 0 left out" in log
    again = gradsafe("check", "set", cwd=tmp_path)
    assert "4 annotations: 4 labels, 0 left out" in again.stdout


def test_train_on_json_that_cannot_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSAFE_CACHE", str(tmp_path / "cache"))
    path = coco_set(tmp_path / "set")
    path.write_text("{")
    done = gradsafe("train", f"data={path}", f"model={POSE}", *TINY, cwd=tmp_path)
    assert done.returncode == 2
    assert "not JSON" in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.listdir(tmp_path / "cache" / "coco")
