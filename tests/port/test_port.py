"""What the package knows of Ultralytics."""

from __future__ import annotations

import pytest
from ultralytics.engine.trainer import BaseTrainer

from yolo_gradsafe import port
from yolo_gradsafe.port import host


def test_the_installed_optimizer_step_is_a_known_one():
    assert host._fingerprint(BaseTrainer.optimizer_step) in host._KNOWN_STEPS


def test_the_fingerprint_sees_the_body_and_not_its_layout():
    def one():
        """A docstring."""
        return 1  # a comment

    def same():
        return 1

    def other():
        return 2

    assert host._fingerprint(one) == host._fingerprint(same) != host._fingerprint(other)
    assert host._fingerprint(len) == ""


def test_arguments_are_parsed_as_the_yolo_command_does():
    parsed = port.parse_arguments(
        ["pose", "train", "model=a.pt", "epochs", "=", "3", "lr0=1e-3", "resume", "--cache=ram"]
    )
    assert parsed == {"task": "pose", "model": "a.pt", "epochs": 3, "lr0": 1e-3, "resume": True, "cache": "ram"}


@pytest.mark.parametrize("words", [["modle=a"], ["epochs"], ["epochs="], ["nonsense"]])
def test_wrong_words_get_ultralytics_own_error(words):
    with pytest.raises(SyntaxError):
        port.parse_arguments(words)


def test_every_event_that_we_listen_to_is_one_of_ultralytics():
    assert set(port.EVENTS) <= set(port.all_events())
