"""The numbers of an epoch for Ray Tune and the Platform."""

from __future__ import annotations

import math
import types
from copy import copy

import pytest

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.loggers.epoch import epoch_metrics
from yolo_gradsafe.telemetry.epoch_log import EpochLog


def test_three_numbers_two_of_them_as_in_results_csv():
    columns = {**EpochLog().columns(), "gradsafe/grad_norm": 3.5, "gradsafe/skipped": 2.0}
    assert epoch_metrics(columns, 1) == {"gradsafe/grad_norm": 3.5, "gradsafe/skipped": 2.0, "gradsafe/incidents": 1.0}


def test_json_has_no_nan():
    columns = EpochLog().columns()
    assert math.isnan(columns["gradsafe/grad_norm"])
    assert epoch_metrics(columns, 0) == {"gradsafe/skipped": 0.0, "gradsafe/incidents": 0.0}


@pytest.mark.parametrize("metrics", [{"metrics/mAP50(B)": 0.5}, None], ids=["rank-0", "ranks-above"])
def test_they_go_when_the_guard_leaves_the_trainer(metrics):
    host = TrainerAdapter.__new__(TrainerAdapter)
    host.trainer, host._own = types.SimpleNamespace(metrics=copy(metrics)), {}
    host.show_metrics({"gradsafe/skipped": 1.0})
    assert host.trainer.metrics == (metrics and {**metrics, "gradsafe/skipped": 1.0})
    host.release()
    assert host.trainer.metrics == metrics
