"""The window of micro-batches behind a step."""

from __future__ import annotations

import math

import torch

from yolo_gradsafe.gradients.window import AccumulationWindow


def window(*losses: float) -> AccumulationWindow:
    made = AccumulationWindow()
    for number, loss in enumerate(losses, 1):
        made.open(epoch=1, batch=number)
        made.set_images({"im_file": (f"{number}.jpg",)})
        made.set_loss(torch.tensor(loss))
    return made


def test_only_the_bad_micro_batch_is_named():
    made = window(1.0, math.nan, 2.0)
    losses = torch.stack(made.losses).tolist()
    assert made.images(losses) == ["2.jpg"]
    assert made.newest == 3


def test_all_are_suspects_when_every_loss_is_finite():
    assert window(1.0, 2.0).images([1.0, 2.0]) == ["1.jpg", "2.jpg"]


def test_it_is_empty_after_the_step():
    made = window(1.0)
    made.clear()
    assert made.newest == 0
    assert made.images([1.0]) == []
