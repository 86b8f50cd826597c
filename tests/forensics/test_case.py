"""What counts as evidence against the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from yolo_gradsafe.adapter.device_memory import DeviceMemory
from yolo_gradsafe.adapter.replay import ReplayResult
from yolo_gradsafe.forensics.case import Case, Surroundings
from yolo_gradsafe.forensics.search import Budget

OTHERS = {"img": torch.zeros(1, 3, 4, 4)}


class TwoWeights:
    """Gives one result under the live weights and another under trusted ones."""

    def __init__(self, now: ReplayResult, then: ReplayResult) -> None:
        self.model, self.compiled, self.precision = nn.Identity(), False, "fp32"
        self.images, self.memory = 1, DeviceMemory(torch.device("cpu"))
        self.now, self.then = now, then

    def run(self, batch: object, precision: str | None = None, backward: bool = False) -> ReplayResult:
        return self.now

    @contextmanager
    def trusted(self) -> Iterator[None]:
        self.now, kept = self.then, self.now
        yield
        self.now = kept


def result(box: float, own: float = 0.0) -> ReplayResult:
    return ReplayResult(box + own, {"box_loss": box, "own_loss": own})


@pytest.mark.parametrize(("now", "then", "bad"), [
    (result(10.0), result(2.0), True),
    (result(4.0), result(2.0), False),
    (result(-20.0), result(-10.0), False),  # better, and negative
    (result(10.0), result(math.nan), False),  # trusted weights fail as well
    (result(2.0, math.inf), result(2.0), False),  # a singularity of one term, and nothing else
    (result(10.0, math.inf), result(2.0), True),  # what is left is several times as high
    (result(10.0), replace(result(2.0), matched=0.1), False),  # untrained weights, which match no object
    (result(10.0, math.inf), replace(result(2.0), matched=0.1), False),
    (replace(result(10.0), matched=0.1), replace(result(2.0), matched=0.1), True),
    (result(math.nan, math.nan), result(2.0), False),  # nothing is left, and no activation is at fault
])  # fmt: skip
def test_weights_are_bad_where_other_images_do_several_times_worse(now, then, bad):
    replay = TwoWeights(now, then)
    case = Case(replay, OTHERS, False, Surroundings(trusted=replay.trusted), Budget(60.0, 10))
    assert case.weights_are_bad(OTHERS) is bad


@pytest.mark.parametrize(("then", "bad"), [
    (result(2.0), True),
    (replace(result(2.0), matched=0.1), False),  # untrained weights: losses rise until they match objects
    (result(math.nan), False),
])  # fmt: skip
def test_losses_that_were_rising_are_evidence_from_weights_that_matched_objects(then, bad):
    replay = TwoWeights(result(math.nan), then)
    case = Case(replay, OTHERS, False, Surroundings(trusted=replay.trusted, elevated=True), Budget(60.0, 10))
    assert case.weights_are_bad(None) is bad
