"""``yolo_gradsafe.YOLO``: Ultralytics' class whose ``train()`` takes callbacks."""

from __future__ import annotations

import pytest
import ultralytics
from ultralytics.engine.model import Model

from tests.arm import BASE, DETECT
from yolo_gradsafe import RTDETR, YOLO, ConfigError, GradSafe


@pytest.fixture
def tiny(drawn, tmp_path):
    return {**BASE, "data": str(drawn["detect"]), "epochs": 1, "project": str(tmp_path), "exist_ok": True}


def test_callbacks_are_for_this_training_only(tiny):
    guard, calls = GradSafe(), []
    model = YOLO(DETECT)
    note = calls.append
    model.train(**tiny, callbacks=[guard, {"on_train_epoch_end": note, "on_train_start": [note, note]}])
    assert guard.summary.steps.total == 2
    assert len(calls) == 3
    left = [fn for functions in model.callbacks.values() for fn in functions]
    assert not set(left) & {note, *guard.callbacks.values()}


def test_it_is_the_class_that_ultralytics_would_have_made():
    assert isinstance(YOLO(DETECT), ultralytics.YOLO)
    assert isinstance(RTDETR("rtdetr-resnet50.yaml"), ultralytics.RTDETR)
    turned = YOLO("yolov8s-worldv2.yaml")
    assert isinstance(turned, ultralytics.YOLOWorld)
    with pytest.raises(ConfigError):
        turned.train(callbacks=1)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ({"on_train_strat": print}, "unknown event 'on_train_strat'. Did you mean 'on_train_start'"),
        ({"on_train_start": 5}, "expected a function or functions for 'on_train_start'; got 5"),
        ("detect", "expected a GradSafe"),
        ([3], "expected a GradSafe"),
    ],
)
def test_wrong_callbacks_fail_before_training(callbacks, message):
    with pytest.raises(ConfigError, match=message):
        YOLO(DETECT).train(data="nowhere.yaml", callbacks=callbacks)


def test_tune_takes_no_guard():
    with pytest.raises(ConfigError, match=r"tune\(\) takes no callbacks.*gradsafe run.*train\(callbacks=guard\)"):
        YOLO(DETECT).tune(callbacks=GradSafe(), iterations=1)


@pytest.mark.parametrize("kind", [YOLO, ultralytics.YOLO])
def test_tune_warns_of_a_guard_that_it_leaves_behind(kind, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("yolo_gradsafe.adapter.launch.warn", told.append)
    monkeypatch.setattr(Model, "tune", lambda self, **kwargs: kwargs)
    guard, model = GradSafe(), kind(DETECT)
    guard.attach(ultralytics.YOLO(DETECT))
    assert model.tune(iterations=1) == {"iterations": 1}
    assert told == []
    guard.attach(model)
    assert model.tune(iterations=1) == {"iterations": 1}
    assert len(told) == 1
    assert "THEY ARE NOT GUARDED" in told[0]
    monkeypatch.setattr("yolo_gradsafe.adapter.launch.started_by_run", lambda: True)
    model.tune(iterations=1)
    assert len(told) == 1, "under 'gradsafe run' they are"
