"""The numbers of an epoch for the loggers."""

from __future__ import annotations

import math
import types
from copy import copy

import pytest

from yolo_gradsafe.adapter import TrainerAdapter
from yolo_gradsafe.loggers.epoch import epoch_metrics
from yolo_gradsafe.telemetry.epoch_log import EpochLog


def test_the_columns_of_results_csv_and_the_incidents():
    columns = dict.fromkeys(EpochLog().columns(), 3.5)
    assert epoch_metrics(columns, 1) == {**columns, "gradsafe/incidents": 1.0}


def test_json_has_no_nan():
    columns = EpochLog().columns()
    assert math.isnan(columns["gradsafe/grad_norm"])
    assert epoch_metrics(columns, 0) == {"gradsafe/skipped": 0.0, "gradsafe/incidents": 0.0}


def test_a_row_of_results_csv_gets_columns_and_the_learning_rates_stay_alone():
    rows = []

    class Trainer(types.SimpleNamespace):
        def save_metrics(self, metrics):
            rows.append(metrics)

    host = TrainerAdapter.__new__(TrainerAdapter)
    host.trainer, host._own = Trainer(metrics={}, lr={"lr/pg0": 0.1}), {}
    host.watch_records(lambda: {"gradsafe/skipped": 1.0})
    host.trainer.save_metrics(metrics=host.trainer.lr)
    host.release()
    host.trainer.save_metrics(metrics=host.trainer.lr)
    assert rows == [{"lr/pg0": 0.1, "gradsafe/skipped": 1.0}, {"lr/pg0": 0.1}]


@pytest.mark.parametrize("metrics", [{"metrics/mAP50(B)": 0.5}, None], ids=["rank-0", "ranks-above"])
def test_they_go_when_the_guard_leaves_the_trainer(metrics):
    host = TrainerAdapter.__new__(TrainerAdapter)
    host.trainer, host._own = types.SimpleNamespace(metrics=copy(metrics)), {}
    host.show_metrics({"gradsafe/skipped": 1.0})
    assert host.trainer.metrics == (metrics and {**metrics, "gradsafe/skipped": 1.0})
    host.release()
    assert host.trainer.metrics == metrics
