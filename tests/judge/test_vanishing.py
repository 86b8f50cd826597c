"""Stages whose gradients vanish."""

from __future__ import annotations

import numpy as np

from yolo_gradsafe.judge.vanishing import VanishingMonitor


def watch(norms: list[list[float]], patience: int = 50) -> list[list[str]]:
    vanishing = VanishingMonitor(["backbone", "head"], patience=patience)
    return [vanishing.observe(np.array(row)) for row in norms]


def test_a_stage_that_falls_to_nothing_for_long_is_named():
    named = watch([[5.0, 3.0]] * 30 + [[5.0, 1e-9]] * 60)
    assert named[78] == []
    assert named[79:] == [["head"]] * 11


def test_it_is_named_no_more_once_it_is_back():
    assert watch([[5.0, 3.0]] * 30 + [[5.0, 0.0]] * 60 + [[5.0, 2.0]])[-1] == []


def test_a_slow_decay_and_a_stage_that_never_had_a_gradient_are_no_fall():
    decay = [[5.0 * 0.99**i, 0.0] for i in range(2000)]
    assert not any(watch(decay))
