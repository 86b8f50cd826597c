"""Data that cannot be trained on are named in plain words before Ultralytics fails on them, however one trains."""

from __future__ import annotations

import re

import pytest
import ultralytics
from ultralytics.models.yolo.detect import DetectionTrainer

from tests.arm import BASE, DETECT
from yolo_gradsafe import YOLO, GradSafe, adapter
from yolo_gradsafe.data.shapes import draw_detect

WORDS = "label_columns"


def attached(guard, **arguments):
    guard.attach(ultralytics.YOLO(DETECT)).train(**arguments)


def as_callback(guard, **arguments):
    YOLO(DETECT).train(callbacks=guard, **arguments)


def as_trainer(guard, **arguments):
    ultralytics.YOLO(DETECT).train(trainer=guard.trainer(DetectionTrainer), **arguments)


def as_run_does(guard, **arguments):
    """Attach when the trainer is built and about to train, which is when its first event may be over."""

    class Late(DetectionTrainer):
        def _do_train(self, *args):
            adapter.attach_for_this_training(self, lambda: guard)
            return super()._do_train(*args)

    ultralytics.YOLO(DETECT).train(trainer=Late, **arguments)


WAYS = [attached, as_callback, as_trainer, as_run_does]


@pytest.fixture
def spoilt(tmp_path):
    """Arguments of a training whose every label row has six columns, and what its log must not come to before us."""

    def spoil(row):
        data = draw_detect(tmp_path / "data", train=8, val=4, size=64)
        for label in (tmp_path / "data" / "labels").rglob("*.txt"):
            label.write_text(row)
        return {**BASE, "data": str(data), "epochs": 1, "project": str(tmp_path)}

    return spoil


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "GradSafe:" in r.getMessage()]


@pytest.mark.parametrize("way", WAYS)
def test_our_words_come_first_and_once(way, spoilt, caplog):
    with pytest.raises(Exception, match=r"."):
        way(GradSafe(), **spoilt("0 0.5 0.5 0.2 0.2 0.9\n"))
    [warning] = [text for text in warnings(caplog) if "data:" in text]
    assert WORDS in warning
    scan = next((k for k, r in enumerate(caplog.records) if re.search(r"corrupt|Scanning", r.getMessage())), None)
    told = next(k for k, r in enumerate(caplog.records) if WORDS in r.getMessage())
    assert scan is None or told < scan


@pytest.mark.parametrize("way", WAYS)
def test_what_can_be_trained_on_is_warned_of_once_and_kept(way, spoilt, caplog, tmp_path):
    arguments = spoilt("0 0.5 0.5 0.2 0.2\n")
    next((tmp_path / "data" / "labels" / "train").glob("*.txt")).write_text("0 nan 0.5 0.2 0.2\n")
    way(GradSafe(report={"plot": False}), **arguments)
    assert sum("label_nonfinite" in text for text in warnings(caplog)) == 1
    assert (tmp_path / "train" / "stability" / "health.json").is_file()


def test_data_that_teach_nothing_are_told_of_once(spoilt, caplog, tmp_path):
    attached(GradSafe(report={"plot": False}), **spoilt(""))
    assert sum("data:" in text for text in warnings(caplog)) == 1
    assert (tmp_path / "train" / "stability" / "health.json").is_file()


def test_it_is_silent_when_the_check_is_off(spoilt, caplog):
    with pytest.raises(Exception, match=r"."):
        attached(GradSafe(forensics={"check_data": False}), **spoilt("0 0.5 0.5 0.2 0.2 0.9\n"))
    assert not any("data:" in text for text in warnings(caplog))


def test_a_fault_of_ours_ends_no_training(spoilt, monkeypatch, caplog):
    import yolo_gradsafe.data

    def broken(*_, **__):
        raise RuntimeError("planted")

    monkeypatch.setattr(yolo_gradsafe.data, "quick_check", broken)
    guard = GradSafe(report={"plot": False})
    attached(guard, **spoilt("0 0.5 0.5 0.2 0.2\n"))
    assert guard.summary.steps.total == 2
    assert sum("could not check the data" in text for text in warnings(caplog)) == 1


def test_data_that_are_not_there_are_left_to_ultralytics(tmp_path, caplog):
    with pytest.raises(Exception, match=r"nowhere"):
        attached(GradSafe(), **{**BASE, "data": str(tmp_path / "nowhere.yaml"), "project": str(tmp_path)})
    assert not any("data:" in text for text in warnings(caplog))
