"""Loss terms, layers against precision: pure functions."""

from __future__ import annotations

import math

from yolo_gradsafe.forensics.activations import ActivationStats, GradientStats
from yolo_gradsafe.forensics.overflow import backward_overflow, forward_overflow
from yolo_gradsafe.forensics.terms import first_bad_term, outlying_term


def stats(name: str, peak: float, finite: bool = True, inputs: bool = True) -> ActivationStats:
    return ActivationStats(name, "Conv2d", peak, "float16", finite, inputs)


def test_the_first_term_that_is_not_finite():
    assert first_bad_term({"box_loss": 1.0, "pose_loss": math.inf, "rle_loss": math.nan}) == "pose_loss"
    assert first_bad_term({"box_loss": 1.0}) == ""


def test_the_term_that_is_furthest_from_its_usual_value():
    usual = {"box_loss": 1.0, "cls_loss": 0.1, "l1_loss": 0.0}
    assert outlying_term({"box_loss": 6.0, "cls_loss": 3.0, "l1_loss": 9.0, "new": 1e9}, usual) == "cls_loss"
    assert outlying_term({"box_loss": 4.9, "cls_loss": 0.1}, usual) == ""
    assert outlying_term({"box_loss": math.nan}, usual) == ""
    assert outlying_term({}, {}) == ""


def test_the_magnitude_is_that_of_the_same_run_in_fp32():
    low = [stats("a", 3), stats("b", 5), stats("b", 60000, finite=False), stats("c", 0, finite=False, inputs=False)]
    full = [stats("a", 3), stats("b", 5), stats("b", 7.1e4), stats("c", 8)]
    found = forward_overflow(low, full)
    assert (found.layer, found.magnitude) == ("b", 7.1e4)
    assert forward_overflow(low).magnitude == 60000
    assert forward_overflow(full, full) is None


def test_a_gradient_overflows_at_the_loss_scale():
    low = [GradientStats("head", 900, True), GradientStats("neck", 65000, False)]
    full = [GradientStats("head", 1, True), GradientStats("neck", 2, True)]
    found = backward_overflow(low, full, 65536)
    assert (found.layer, found.magnitude) == ("neck", 131072)
    assert backward_overflow(full, full, 1) is None
