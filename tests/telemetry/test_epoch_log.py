"""The columns of ``results.csv``."""

from __future__ import annotations

import math

import pytest

from tests.telemetry.test_recorder import row
from yolo_gradsafe.telemetry.epoch_log import EpochLog


def log(*rows) -> EpochLog:
    made = EpochLog()
    for each in rows:
        made.add(each)
    return made


def test_the_numbers_of_an_epoch():
    made = log(
        row(1, grad_norm=1.0),
        row(2, grad_norm=3.0, clip_scale=0.5, verdict="clipped"),
        row(3, grad_norm=math.nan, clip_scale=0.0, verdict="bad_batch"),
        row(4, grad_norm=5.0, amp_scale=512.0),
    )
    assert made.counts() == {"ok": 2, "clipped": 1, "bad_batch": 1}
    assert made.columns() == {
        "gradsafe/grad_norm": 3.0,
        "gradsafe/grad_norm_max": 5.0,
        "gradsafe/grad_noise": pytest.approx(math.sqrt(8 / 3) / 3),
        "gradsafe/clip_share": 0.25,
        "gradsafe/skipped": 1.0,
        "gradsafe/amp_scale": 512.0,
    }


@pytest.mark.parametrize("broken", [math.inf, 0.0, math.nan])
def test_a_broken_loss_scale_is_not_that_of_the_epoch(broken):
    made = log(row(1, amp_scale=512.0), row(2, grad_norm=math.nan, clip_scale=0.0, amp_scale=broken))
    assert made.columns()["gradsafe/amp_scale"] == 512.0
    later = EpochLog(made.amp_scale)
    later.add(row(3, amp_scale=broken))
    assert later.columns()["gradsafe/amp_scale"] == 512.0, "that of the epoch before"


def test_an_epoch_without_a_step_shows_the_gradients_that_have_gathered():
    made = EpochLog()
    made.add_gathered(7.0, 512.0)
    assert not made.has_norm
    assert made.columns() == {
        "gradsafe/grad_norm": 7.0,
        "gradsafe/grad_norm_max": 7.0,
        "gradsafe/grad_noise": 0.0,
        "gradsafe/clip_share": 0.0,
        "gradsafe/skipped": 0.0,
        "gradsafe/amp_scale": 512.0,
    }


def test_the_gradients_of_steps_are_not_mixed_with_those_that_have_gathered():
    made = log(row(1, grad_norm=2.0))
    made.add_gathered(7.0, 1.0)
    assert (made.has_norm, made.largest_norm()) == (True, 2.0)
    assert made.columns()["gradsafe/grad_norm"] == made.columns()["gradsafe/grad_norm_max"] == 2.0


def test_an_epoch_that_keeps_no_gradient_has_no_norm():
    made = log(row(1, grad_norm=math.inf, clip_scale=0.0, verdict="amp_overflow", amp_scale=512.0))
    made.add_gathered(math.nan, 256.0)
    columns = made.columns()
    unknown = [name for name, value in columns.items() if math.isnan(value)]
    assert unknown == ["gradsafe/grad_norm", "gradsafe/grad_norm_max", "gradsafe/grad_noise"]
    assert (columns["gradsafe/skipped"], columns["gradsafe/amp_scale"]) == (1.0, 256.0)


def test_norms_that_are_all_0_have_no_spread():
    assert log(row(1, grad_norm=0.0), row(2, grad_norm=0.0)).columns()["gradsafe/grad_noise"] == 0.0


@pytest.mark.parametrize("rows", [(), (row(1, grad_norm=math.nan),), (row(1, grad_norm=0.0),)])
def test_the_same_columns_whatever_happened(rows):
    columns = log(*rows).columns()
    assert list(columns) == list(log(row(1)).columns())
    assert all(isinstance(value, float) for value in columns.values())


def test_no_name_disturbs_ultralytics_plots():
    assert not any("loss" in name or "metric" in name for name in EpochLog().columns())
