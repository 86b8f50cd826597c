"""Promise 3 in real trainings: the incident names the culprit, and a repeat offender is left out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from tests.arm import Arm
from yolo_gradsafe.data.shapes import draw_detect

# One image file is poisonous whenever it is trained on; the batches that hold it are noted.
POISONOUS = """
import json
seen = []
def arm_poison(trainer):
    preprocess = trainer.preprocess_batch
    def poisoned(batch):
        batch = preprocess(batch)
        for place, name in enumerate(batch["im_file"]):
            if name.endswith("0005.jpg"):
                batch["img"][place, 0, 3, 4] = float("nan")
                seen.append(trainer.epoch + 1)
        return batch
    trainer.preprocess_batch = poisoned
callbacks.setdefault("on_train_start", []).append(arm_poison)
callbacks.setdefault("on_train_end", []).append(lambda _: print("trained on it in epochs", seen))
"""


def test_one_poisonous_image_is_named_framed_and_after_its_second_offence_left_out(train, drawn):
    result = train(Arm(str(drawn["detect"]), args={"epochs": 5, "mosaic": 0.0}, guard={}, code=POISONOUS))
    assert result.error == ""
    assert "trained on it in epochs [1, 2]" in result.log
    incidents = result.incidents()
    assert [incident["kind"] for incident in incidents] == ["bad_batch", "bad_batch", "quarantine"]
    for incident in incidents[:2]:
        [image] = incident["images"]
        assert Path(image).name == "0005.jpg"
        assert incident["culprit"].startswith("0005.jpg holds 1 NaN or Inf pixel")
        picture = cv2.imread(str(result.run / incident["picture"]))
        red = (picture[..., 2] > 180) & (picture[..., :2].max(axis=-1) < 90)
        assert red.sum() > 200, "the culprit is framed in red"
    listed = (result.run / "stability" / "quarantine.txt").read_text().splitlines()
    assert [Path(line).name for line in listed] == ["0005.jpg"]
    assert "nan" not in json.dumps(result.losses())


def test_quarantine_can_be_turned_off(train, drawn):
    guard = {"forensics": {"quarantine": 0, "pictures": 0}}
    result = train(Arm(str(drawn["detect"]), args={"epochs": 4, "mosaic": 0.0}, guard=guard, code=POISONOUS))
    assert "trained on it in epochs [1, 2, 3, 4]" in result.log
    assert not (result.run / "stability" / "batches").exists()
    assert not (result.run / "stability" / "quarantine.txt").exists()


def test_an_overflow_planted_in_one_layer_is_named_by_it_and_called_precision(train, drawn):
    code = (
        "callbacks.setdefault('on_train_start', []).append(lambda t: t.model.model[4].cv1.conv.weight.data.mul_(1e7))"
    )
    result = train(Arm(str(drawn["detect"]), guard={}, code=code, autocast="float16", scaler=1024.0))
    first = result.incidents()[0]
    assert (first["kind"], first["cause"], first["layer"]) == ("bad_batch", "precision", "model.4.cv1.conv")
    assert first["culprit"].startswith("fp16 overflow in model.4.cv1.conv (max ")


@pytest.fixture
def spoilt(tmp_path):
    """A drawn set in which one label line is NaN."""
    data = draw_detect(tmp_path / "data", train=8, val=4, size=64)
    label = sorted((tmp_path / "data" / "labels" / "train").glob("*.txt"))[2]
    label.write_text("0 nan 0.5 0.2 0.2\n")
    return data, label


def test_a_nan_label_is_told_of_before_training(train, spoilt):
    data, label = spoilt
    result = train(Arm(str(data), guard={}, args={"epochs": 1}))
    assert result.error == ""
    assert "label_nonfinite" in result.log
    health = json.loads((result.run / "stability" / "health.json").read_text())
    assert label.name in json.dumps(health)


def test_the_check_can_be_turned_off(train, spoilt):
    data, _ = spoilt
    result = train(Arm(str(data), guard={"forensics": {"check_data": False}}, args={"epochs": 1}))
    assert "label_nonfinite" not in result.log
