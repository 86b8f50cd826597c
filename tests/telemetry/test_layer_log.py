"""Layer by layer and epoch by epoch."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from yolo_gradsafe.gradients.layer_groups import LayerGroups, Layout
from yolo_gradsafe.telemetry import Recorder
from yolo_gradsafe.telemetry.layer_log import LayerLog

NAMES = ["model.0.weight", "model.0.bias", "model.1.weight", "model.2.cv2.weight", "model.2.cv3.weight"]
GROUPING = LayerGroups(NAMES, Layout(backbone=1, layers=3))


def test_norms_combine_to_layers_and_stages():
    layers, stages = GROUPING.norms(NAMES, [3.0, 4.0, 1.0, 2.0, 6.0])
    assert GROUPING.layers == ["model.0", "model.1", "model.2.cv2", "model.2.cv3"]
    assert GROUPING.stages == ["backbone", "head.box", "head.class", "neck"]
    np.testing.assert_allclose(layers, [5.0, 1.0, 2.0, 6.0])
    np.testing.assert_allclose(stages, [5.0, 2.0, 6.0, 1.0])


def test_frozen_layers_have_no_norm_and_the_set_may_change():
    layers, _ = GROUPING.norms(NAMES[2:], [1.0, 2.0, 6.0])
    np.testing.assert_allclose(layers, [math.nan, 1.0, 2.0, 6.0])
    layers, _ = GROUPING.norms(NAMES, [3.0, 4.0, 1.0, 2.0, 6.0])
    assert layers[0] == 5.0


def test_an_epochs_rows():
    log = LayerLog(GROUPING)
    for step in range(1, 101):
        log.observe(np.array([step, 1.0, 0.0, 0.0]))
    log.observe_update(np.array([0.1, 0.2, 0.3, math.nan]))
    rows = log.rows(epoch=4)
    first = rows[0]
    assert (first.epoch, first.layer, first.stage, first.steps, first.norm_max) == (4, "model.0", "backbone", 100, 100)
    assert first.norm_median == pytest.approx(50.5)
    assert first.norm_p05 == pytest.approx(5.95)
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert [row.update_ratio for row in rows[:3]] == [0.1, 0.2, 0.3]
    assert log.rows(epoch=5) == [], "every epoch starts anew"


def test_a_layer_that_is_frozen_midway_keeps_the_norms_of_before():
    log = LayerLog(GROUPING)
    for first in (2.0, 2.0, math.nan):
        log.observe(np.array([first, 1.0, 0.0, 0.0]))
    row = log.rows(epoch=1)[0]
    assert (row.norm_median, row.norm_max) == (2.0, 2.0)
    assert row.share == pytest.approx(8 / 11)
    log.observe(np.array([math.nan, 1.0, 0.0, 0.0]))
    frozen, other, *_ = log.rows(epoch=2)
    assert math.isnan(frozen.norm_max)
    assert (frozen.share, other.share) == (0.0, 1.0)


def test_the_file_has_one_header(tmp_path):
    recorder, log = Recorder(tmp_path).start(), LayerLog(GROUPING)
    for epoch in (1, 2):
        log.observe(np.ones(4))
        recorder.layers(log.rows(epoch))
    with recorder.paths.layers.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["layer"]) for row in rows][3:5] == [("1", "model.2.cv3"), ("2", "model.0")]
