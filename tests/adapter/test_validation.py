"""Validation goes over to fp32 when fp16 overflows, and only then."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from yolo_gradsafe.adapter.validation import SafeValidation


class Trainer:
    """What ``SafeValidation`` needs of a trainer: fp16 validation overflows, fp32 does not."""

    def __init__(self, amp: bool = True, overflows: bool = True, healthy: float = 1.0, flag: str = "quantize") -> None:
        self.amp = amp
        self.validator = SimpleNamespace(args=SimpleNamespace())
        self.ran: list[str] = []
        self._overflows, self._healthy, self._flag = overflows, healthy, flag

    def validate(self):
        self.ran.append("fp16" if self.amp else "fp32")
        setattr(self.validator.args, self._flag, (16 if self._flag == "quantize" else True) if self.amp else None)
        loss = math.nan if self.amp and self._overflows else self._healthy
        return {"metrics/mAP50(B)": 0.5, "val/box_loss": loss}, 0.5


def guard(trainer: Trainer) -> tuple[SafeValidation, list[str]]:
    told: list[str] = []
    return SafeValidation(trainer, trainer.validate, list, lambda: told.append("told"), lambda terms: None), told


@pytest.mark.parametrize("flag", ["quantize", "half"])
def test_an_overflow_is_repeated_in_fp32_and_it_stays_there(flag):
    trainer = Trainer(flag=flag)
    validate, told = guard(trainer)
    assert validate()[0]["val/box_loss"] == 1.0
    assert validate()[0]["val/box_loss"] == 1.0
    assert trainer.ran == ["fp16", "fp32", "fp32"]
    assert told == ["told"]
    assert trainer.amp is True


def test_a_finite_validation_is_left_alone():
    trainer = Trainer(overflows=False)
    validate, told = guard(trainer)
    validate()
    assert (trainer.ran, told) == (["fp16"], [])


def test_in_fp32_there_is_nothing_to_repeat():
    trainer = Trainer(amp=False, healthy=math.nan)
    validate, _ = guard(trainer)
    assert math.isnan(validate()[0]["val/box_loss"])
    assert trainer.ran == ["fp32"]


def test_ranks_without_metrics_follow_the_one_that_has_them():
    trainer = Trainer()
    validate = SafeValidation(
        trainer, lambda: (trainer.validate(), (None, None))[1], lambda _: [1.0], lambda: None, lambda terms: None
    )
    assert validate() == (None, None)
    assert trainer.ran == ["fp16", "fp32"]


@pytest.mark.parametrize("helps", [True, False], ids=["the weights were at fault", "the data are at fault"])
def test_a_validation_that_is_nan_in_fp32_is_tried_with_trusted_weights(helps):
    trainer = Trainer(amp=False, healthy=math.nan)
    settled = []

    def rescue(terms):
        trainer._healthy = 1.0 if helps else math.nan
        return lambda helped: settled.append((helped, terms)) or helped

    validate = SafeValidation(trainer, trainer.validate, list, lambda: None, rescue)
    assert math.isfinite(validate()[0]["val/box_loss"]) == helps
    assert settled == [(helps, ["val/box_loss"])]
    validate()
    assert len(settled) == 1, "data that are at fault are not tried again"


@pytest.mark.parametrize(("loss", "absurd"), [(0.0, True), (2e3, True), (900.0, False), (1e-9, False)])
def test_losses_that_no_model_comes_to_are_tried_with_trusted_weights(loss, absurd):
    trainer, settled = Trainer(amp=False, healthy=loss), []

    def rescue(terms):
        trainer._healthy = 1.0
        return lambda helped: settled.append((helped, terms)) or helped

    SafeValidation(trainer, trainer.validate, list, lambda: None, rescue)()
    assert settled == ([(True, [])] if absurd else [])


@pytest.mark.parametrize(("second", "helps"), [(990.0, False), (200.0, False), (90.0, True)])
def test_a_custom_loss_may_be_large_trusted_weights_help_where_it_falls_to_a_tenth(second, helps):
    trainer, settled = Trainer(amp=False, healthy=1010.0), []

    def rescue(terms):
        trainer._healthy = second
        return lambda helped: settled.append(helped) or helped

    loss = SafeValidation(trainer, trainer.validate, list, lambda: None, rescue)()[0]["val/box_loss"]
    assert settled == [helps]
    assert loss == (second if helps else 1010.0)


def test_trusted_weights_that_help_but_do_not_stay_leave_the_validation_as_it_was():
    trainer = Trainer(amp=False, healthy=2e6)

    def rescue(terms):
        trainer._healthy = 1.0
        return lambda helped: False

    assert SafeValidation(trainer, trainer.validate, list, lambda: None, rescue)()[0]["val/box_loss"] == 2e6
    assert trainer.ran == ["fp32", "fp32"]


def test_a_second_validation_that_does_not_help_leaves_no_trace():
    """Random states and the best fitness so far are as after the first one."""
    trainer = Trainer(amp=False, healthy=math.nan)
    trainer.best_fitness = 0.25
    own = trainer.validate

    def validate():
        random.random(), np.random.rand(), torch.rand(1)
        trainer.best_fitness += 1
        return own()

    states = []
    for rescue in (lambda terms: None, lambda terms: lambda helped: False):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        trainer.best_fitness = 0.25
        SafeValidation(trainer, validate, list, lambda: None, rescue)()
        states.append((random.random(), np.random.rand(), float(torch.rand(1)), trainer.best_fitness))
    assert states[0] == states[1]


class Scored(Trainer):
    """Keeps its best fitness as Ultralytics does, by which ``best.pt`` is written."""

    def __init__(self, *results: tuple[float, float], best: float | None, amp: bool = False) -> None:
        super().__init__(amp=amp, overflows=False)
        self.best_fitness = best
        self._results = list(results)

    def validate(self):
        super().validate()
        loss, fitness = self._results.pop(0)
        if self.best_fitness is None or self.best_fitness < fitness:
            self.best_fitness = fitness
        return {"val/box_loss": loss}, fitness


@pytest.mark.parametrize(
    ("trainer", "best"),
    [
        (Scored((math.nan, 0.5), (1.0, 0.499), best=0.4, amp=True), 0.499),
        (Scored((math.nan, math.nan), (1.0, 0.1), best=None, amp=True), 0.1),
        (Scored((2e6, 0.3), (1.0, 0.2), best=0.1), 0.2),
        (Scored((math.nan, 0.9), (1.0, 0.3), best=0.4), 0.4),
    ],
    ids=["fp32 instead", "fp32 instead of nan", "trusted weights", "trusted weights that are worse than the best"],
)
def test_the_best_fitness_is_that_of_a_validation_that_counts(trainer, best):
    SafeValidation(trainer, trainer.validate, list, lambda: None, lambda terms: lambda helped: True)()
    assert trainer.best_fitness == best


@pytest.mark.parametrize("first_fits", [True, False])
def test_without_memory_for_fp32_validation_stays_as_the_trainers(monkeypatch, first_fits):
    trainer = Trainer()
    own, room = trainer.validate, [first_fits]

    def within():
        if not trainer.amp and not (room.pop() if room else False):
            trainer.ran.append("too large")
            raise torch.cuda.OutOfMemoryError("planted")
        return own()

    validate = SafeValidation(trainer, within, list, lambda: None, lambda terms: None)
    results = [validate()[0]["val/box_loss"] for _ in range(3)]
    fp32 = ["fp16", "fp32", "too large", "fp16", "fp16"]
    assert trainer.ran == (fp32 if first_fits else ["fp16", "too large", "fp16", "fp16"])
    assert [math.isnan(value) for value in results] == [not first_fits, True, True]
