"""A bad micro-batch is taken out of its own window, and of no other."""

from __future__ import annotations

import math

import torch
from torch import nn

from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.recovery.batchnorm import BatchNormShadow
from yolo_gradsafe.recovery.isolation import Isolation


class Host:
    """What ``Isolation`` needs of a host: one weight, its gradient, and a loss."""

    scaler_enabled = False

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.zeros(2))
        self.loss = torch.zeros(())

    def gradients(self):
        return {} if self.weight.grad is None else {self.weight: self.weight.grad}

    def zero_grad(self) -> None:
        self.weight.grad = None

    def largest(self, values):
        return values


class Losses:
    """Losses that nobody looks at."""

    def keep(self) -> None: ...

    def repair(self) -> None: ...


def micro_batch(host: Host, isolation: Isolation, window: AccumulationWindow, gradient: float) -> bool:
    """Add a micro-batch that is not the window's last; return whether it was bad, and take it out if so."""
    window.open(1, len(window.batches) + 1)
    added = torch.full((2,), gradient)
    host.weight.grad = added if host.weight.grad is None else host.weight.grad + added
    host.loss = torch.tensor(gradient)
    bad = isolation.bad(closing=False)
    if bad:
        isolation.take_out()
    return bad


def armed() -> tuple[Host, Isolation, AccumulationWindow]:
    host, window = Host(), AccumulationWindow()
    return host, Isolation(host, window, BatchNormShadow([]), Losses(), "always", 10), window


def test_the_gradients_are_those_of_the_good_ones():
    host, isolation, window = armed()
    assert [micro_batch(host, isolation, window, g) for g in (1.0, math.nan, 2.0)] == [False, True, False]
    assert host.weight.grad.tolist() == [3.0, 3.0]


def test_a_bad_first_one_leaves_nothing():
    host, isolation, window = armed()
    assert micro_batch(host, isolation, window, math.nan)
    assert host.weight.grad is None


def test_gradients_of_a_window_that_was_given_up_do_not_come_back():
    host, isolation, window = armed()
    micro_batch(host, isolation, window, 5.0)
    host.zero_grad()  # a routine overflow, or a step that was skipped
    window.clear()
    isolation.reset()
    assert micro_batch(host, isolation, window, math.nan)
    assert host.weight.grad is None
