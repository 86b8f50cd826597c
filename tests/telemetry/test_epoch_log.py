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


@pytest.mark.parametrize("rows", [(), (row(1, grad_norm=math.nan),), (row(1, grad_norm=0.0),)])
def test_the_same_columns_whatever_happened(rows):
    columns = log(*rows).columns()
    assert list(columns) == list(log(row(1)).columns())
    assert all(isinstance(value, float) for value in columns.values())


def test_no_name_disturbs_ultralytics_plots():
    assert not any("loss" in name or "metric" in name for name in EpochLog().columns())
