"""What the package knows of Ultralytics."""

from __future__ import annotations

import pytest
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import callbacks

from tests.arm import DETECT
from yolo_gradsafe import adapter


def test_arguments_are_parsed_as_the_yolo_command_does():
    parsed = adapter.parse_arguments(
        ["pose", "train", "model=a.pt", "epochs", "=", "3", "lr0=1e-3", "resume", "--cache=ram"]
    )
    assert parsed == {"task": "pose", "model": "a.pt", "epochs": 3, "lr0": 1e-3, "resume": True, "cache": "ram"}


@pytest.mark.parametrize("words", [["modle=a"], ["epochs"], ["epochs="], ["nonsense"]])
def test_wrong_words_get_ultralytics_own_error(words):
    with pytest.raises(SyntaxError):
        adapter.parse_arguments(words)


def test_every_event_that_we_listen_to_is_one_of_ultralytics():
    assert set(adapter.EVENTS) <= set(adapter.all_events())


def test_trackers_can_be_kept_out_of_a_training(drawn, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(callbacks, "add_integration_callbacks", started.append)
    arguments = {"model": DETECT, "data": str(drawn["detect"]), "device": "cpu", "project": str(tmp_path)}
    with adapter.without_integrations():
        DetectionTrainer(overrides=arguments)
    assert not started
    DetectionTrainer(overrides=arguments)
    assert len(started) == 1
