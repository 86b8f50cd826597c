"""What the loggers are sent of the optimizer steps, and how often."""

from __future__ import annotations

import math

import pytest

from tests.report.runs import bad, clipped, overflow, row
from yolo_gradsafe.loggers.steps import StepLogger, summed_up


class Listener:
    """A sink that keeps what it is sent, and fails from a step on."""

    def __init__(self, name: str = "listener", fails_at: float = math.inf) -> None:
        self.name = name
        self.fails_at = fails_at
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def send(self, values: dict[str, float], step: int) -> None:
        self.sent.append((step, values))
        if step >= self.fails_at:
            raise ConnectionError("no network")

    def close(self) -> None:
        self.closed += 1


def run(steps: int, every: int, *sinks: Listener) -> list[str]:
    """Log a run, and return the warnings."""
    warnings: list[str] = []
    logger = StepLogger(every, lambda: list(sinks), warnings.append)
    for step in range(1, steps + 1):
        logger.add(row(step))
    logger.close()
    return warnings


def test_one_call_every_n_steps_and_one_for_the_rest():
    sink = Listener()
    assert run(25, 10, sink) == []
    assert [step for step, _ in sink.sent] == [10, 20, 25]
    assert sink.closed == 1


def test_a_single_step_is_sent_as_it_is():
    sent = summed_up([clipped(3, norm=20.0, stages={"norm/neck": 7.0, "norm/head.box": 2.0})])
    assert sent == {
        "gradsafe_steps/loss": row(3).loss,
        "gradsafe_steps/grad_norm": 20.0,
        "gradsafe_steps/grad_norm_max": 20.0,
        "gradsafe_steps/clip_scale": 0.5,
        "gradsafe_steps/threshold": 10.0,
        "gradsafe_steps/lr": row(3).lr,
        "gradsafe_steps/amp_scale": 1.0,
        "gradsafe_steps/norm/neck": 7.0,
        "gradsafe_steps/norm/head.box": 2.0,
        "gradsafe_steps/verdict/clipped": 1.0,
        "gradsafe_steps/verdict/spike": 0.0,
        "gradsafe_steps/verdict/amp_overflow": 0.0,
        "gradsafe_steps/verdict/bad_batch": 0.0,
        "gradsafe_steps/verdict/poisoned": 0.0,
        "gradsafe_steps/verdict/diverging": 0.0,
        "gradsafe_steps/verdict/stalled": 0.0,
    }


def test_several_steps_keep_the_spike_and_the_skip():
    norms = (1.0, 2.0, 90.0)
    rows = [row(i, grad_norm=norm, stages={"norm/neck": norm}) for i, norm in enumerate(norms, 1)]
    sent = summed_up([*rows, bad(4, stages={"norm/neck": math.nan}), overflow(5, stages={"norm/neck": math.inf})])
    assert sent["gradsafe_steps/grad_norm"] == sent["gradsafe_steps/norm/neck"] == 2.0
    assert sent["gradsafe_steps/grad_norm_max"] == 90.0
    assert sent["gradsafe_steps/clip_scale"] == 0.0
    assert sent["gradsafe_steps/amp_scale"] == 65536.0
    assert sent["gradsafe_steps/verdict/bad_batch"] == sent["gradsafe_steps/verdict/amp_overflow"] == 1.0


def test_what_is_not_finite_is_left_out():
    sent = summed_up([bad(1, threshold=math.inf)])
    assert all(map(math.isfinite, sent.values()))
    assert not {"gradsafe_steps/loss", "gradsafe_steps/grad_norm", "gradsafe_steps/threshold"} & set(sent)
    assert sent["gradsafe_steps/verdict/bad_batch"] == 1.0


def test_a_logger_that_fails_is_warned_of_once_and_left_alone():
    broken, sound = Listener("W&B", fails_at=20), Listener("MLflow")
    (warning,) = run(50, 10, broken, sound)
    assert "W&B" in warning
    assert "ConnectionError: no network" in warning
    assert [step for step, _ in broken.sent] == [10, 20]
    assert broken.closed == 0
    assert [step for step, _ in sound.sent] == [10, 20, 30, 40, 50]


def test_loggers_are_looked_for_once_when_there_is_something_to_send():
    asked: list[int] = []
    warnings: list[str] = []
    logger = StepLogger(2, lambda: asked.append(1) or [], warnings.append)
    logger.add(row(1))
    assert asked == []
    for step in range(2, 20):
        logger.add(row(step))
    logger.close()
    assert asked == [1]
    assert [text.split(",")[0] for text in warnings] == ["loggers.steps is on"]


def test_a_search_that_fails_is_not_made_again():
    asked: list[int] = []

    def find() -> list[Listener]:
        asked.append(1)
        raise RuntimeError("half an installation")

    logger = StepLogger(1, find, lambda text: None)
    with pytest.raises(RuntimeError):
        logger.add(row(1))
    logger.add(row(2))
    logger.close()
    assert asked == [1]
