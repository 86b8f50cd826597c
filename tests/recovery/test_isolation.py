"""A bad micro-batch is taken out of its own window, and of no other."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import nn

from yolo_gradsafe.gradients.window import AccumulationWindow
from yolo_gradsafe.recovery.isolation import Isolation
from yolo_gradsafe.recovery.options import RecoveryOptions
from yolo_gradsafe.recovery.savepoint import Savepoint


class Trainer:
    """What ``Isolation`` needs of a trainer: one weight, its gradient, and a loss."""

    scaler_enabled = False
    running_loss = None

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.zeros(2))
        self.loss = torch.zeros(())
        self.ranks = SimpleNamespace(all_reduce_max=list)
        self.memory = SimpleNamespace(room=math.inf)

    def gradients(self):
        return {} if self.weight.grad is None else {self.weight: self.weight.grad}

    def zero_grad(self) -> None:
        self.weight.grad = None

    def guarded_buffers(self):
        return []

    def set_loss(self, loss) -> None:
        self.loss = loss

    def set_running_loss(self, value) -> None:
        pass

    def unknown_running_loss(self):
        return None


def micro_batch(trainer: Trainer, isolation: Isolation, window: AccumulationWindow, gradient: float) -> bool:
    """Add a micro-batch that is not the window's last; return whether it was bad, and take it out if so."""
    window.open(1, len(window.batches) + 1)
    added = torch.full((2,), gradient)
    trainer.weight.grad = added if trainer.weight.grad is None else trainer.weight.grad + added
    trainer.loss = torch.tensor(gradient)
    bad = isolation.newest_is_bad(closing=False)
    if bad:
        isolation.skip_newest()
    return bad


def armed() -> tuple[Trainer, Isolation, AccumulationWindow]:
    trainer, window = Trainer(), AccumulationWindow()
    options = RecoveryOptions(isolate="always", isolate_hold=10)
    return trainer, Isolation(trainer, window, Savepoint(trainer), options), window


def test_the_gradients_are_those_of_the_good_ones():
    trainer, isolation, window = armed()
    assert [micro_batch(trainer, isolation, window, g) for g in (1.0, math.nan, 2.0)] == [False, True, False]
    assert trainer.weight.grad.tolist() == [3.0, 3.0]


def test_a_bad_first_one_leaves_nothing():
    trainer, isolation, window = armed()
    assert micro_batch(trainer, isolation, window, math.nan)
    assert trainer.weight.grad is None


def test_gradients_of_a_window_that_was_given_up_do_not_come_back():
    trainer, isolation, window = armed()
    micro_batch(trainer, isolation, window, 5.0)
    trainer.zero_grad()  # a routine overflow, or a step that was skipped
    isolation.close_window()
    assert micro_batch(trainer, isolation, window, math.nan)
    assert trainer.weight.grad is None
