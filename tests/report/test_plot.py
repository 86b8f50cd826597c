"""The picture: valid, of the right size, red where and only where a step was skipped, and true to the extremes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from tests.report.runs import INF, INFO, NAN, bad, clipped, incident, overflow, row, write
from yolo_gradsafe.report.panels import SKIPPED, amp_scale, learning_rate, mark_skips
from yolo_gradsafe.report.plot import draw
from yolo_gradsafe.report.records import read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.report.thin import medians, thin
from yolo_gradsafe.telemetry import RunPaths


def picture(run: Path) -> np.ndarray:
    path = draw(run, summarize(run))
    assert path == run / "stability.png"
    image = imread(path)[..., :3]
    assert image.shape == (1800, 2400, 3)
    return image


def red(image: np.ndarray) -> int:
    return int((np.abs(image - np.array(to_rgb(SKIPPED))).max(axis=-1) < 0.01).sum())


def fp16(step: int):
    return overflow(step, 65536 / 2**step) if step < 5 else row(step, amp_scale=4096.0)


HEALTHY = {
    "short": {"steps": 30},
    "single": {"steps": 1},
    "empty": {"steps": 0},
    "clipped throughout": {"steps": 400, "change": clipped},
    "nothing clips": {"steps": 30, "change": lambda step: row(step, threshold=INF)},
    "norm of zero": {"steps": 30, "change": lambda step: row(step, grad_norm=0.0, lr=0.0)},
    "extreme norm": {"steps": 30, "change": lambda step: row(step, grad_norm=1e42 if step == 9 else 1e-30)},
    "negative loss": {"steps": 30, "change": lambda step: row(step, loss=-float(step))},
    "loss without items": {"steps": 30, "change": lambda step: row(step, items={})},
    "fp16": {"steps": 500, "change": fp16, "info": replace(INFO, amp="fp16")},
    "unknown": {"steps": 30, "info": None, "options": None},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_red_where_nothing_was_skipped(tmp_path, name):
    assert red(picture(write(tmp_path, **HEALTHY[name]))) == 0


@pytest.mark.parametrize("steps", [30, 2000, 20_000])
def test_a_single_skipped_step_is_seen(tmp_path, steps):
    run = write(tmp_path, steps, lambda step: bad(step) if step == 17 else row(step), [incident(17)])
    assert red(picture(run)) > 100


def test_skips_are_seen_where_no_norm_is_finite(tmp_path):
    assert red(picture(write(tmp_path, 40, bad, [incident(1)]))) > 1000


def test_marks_leave_the_scale_alone(tmp_path):
    run = write(tmp_path, 30, lambda step: bad(step, amp_scale=4096.0) if step == 9 else row(step, amp_scale=65536.0))
    axes = Figure().subplots()
    rows = read_steps(RunPaths(run))
    amp_scale(axes, rows)
    mark_skips(axes, rows)
    low, high = axes.get_ylim()
    assert 2048 < low < 4096 < 65536 < high < 131072


def test_text_is_no_formula(tmp_path):
    info = replace(INFO, error="ValueError: $\\frac{ costs 5$ {", model="$\\x.pt")
    picture(write(tmp_path, 30, info=info))


def test_a_programs_own_style_neither_matters_nor_changes(tmp_path):
    plain = picture(write(tmp_path / "plain", 30))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        styled = picture(write(tmp_path / "styled", 30))
        assert dict(matplotlib.rcParams) == before
    assert np.array_equal(plain, styled)


def test_thinning_keeps_the_spikes_and_the_gaps():
    values = np.sin(np.arange(100_000) / 50)
    values[[12_345, 60_001]] = 1e6, -1e6
    values[77_777] = INF
    values[30_000:40_000] = NAN
    keep = thin(values)
    assert len(keep) <= 2400
    assert (np.diff(keep) > 0).all()
    assert {12_345, 60_001} <= set(keep)
    assert 77_777 not in keep
    assert np.isnan(values[keep][(keep > 30_100) & (keep < 39_900)]).all()


@pytest.mark.parametrize("length", [0, 1, 2399, 2400, 2401, 2403, 7919])
def test_thinning_is_right_for_any_length(length):
    keep = thin(np.arange(length, dtype=float))
    assert len(keep) == min(length, len(keep)) <= 2400
    assert length == 0 or (keep[0], keep[-1]) == (0, length - 1)


def test_medians_follow_the_series():
    values = np.concatenate([np.full(500, 2.0), np.full(250, NAN), np.full(250, 8.0)])
    values[::7] = NAN
    values[100] = 1e9
    middles, course = medians(values, buckets=4)
    assert (np.diff(middles) > 0).all()
    assert middles[-1] < len(values)
    assert course[0] == 2.0
    assert np.isnan(course[2])
    assert course[3] == 8.0


def test_backoffs_are_drawn_under_amp_as_well(tmp_path):
    def change(step):
        return row(step, lr=0.001 if step > 15 else 0.01, lr_factor=0.1 if step > 15 else 1.0, amp_scale=1024.0)

    run = write(tmp_path, 30, change, info=replace(INFO, amp="fp16"))
    assert red(picture(run)) == 0
    axes = Figure().subplots()
    learning_rate(axes, read_steps(RunPaths(run)))
    planned, rate = axes.lines
    assert set(planned.get_ydata()) == {0.01}
    assert set(rate.get_ydata()) == {0.01, 0.001}
