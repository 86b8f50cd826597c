"""From findings to settings, and how they are shown: terminal, YAML, JSON, picture."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from matplotlib.image import imread

from tests.probe.toys import arm, result, trial
from yolo_gradsafe.config import Config
from yolo_gradsafe.probe import ProbeError, ProbeResult, plot, result_table
from yolo_gradsafe.probe.advice import clip_to_try, lr_to_try
from yolo_gradsafe.probe.norms import distribution
from yolo_gradsafe.probe.parts import brief
from yolo_gradsafe.probe.steps import Step

NAN, INF = math.nan, math.inf
RESULTS = {
    "healthy": {},
    "verified": {"tried": trial(arm(9.0, 9.1), arm(7.0, 7.1, lr0=0.003), arm(6.0, 6.1, lr0=0.003, max_norm=50.0))},
    "nothing lived": {"tried": trial(arm(NAN, NAN), arm(NAN, INF, lr0=0.003))},
    "sgd": {"optimizer": "SGD"},
    "musgd": {"optimizer": "MuSGD", "optimizer_auto": True},
    "exploding": {"gain": 1e9},
    "nothing finite": {"norms": [NAN] * 5, "losses": [NAN]},
    "small norms": {"norms": [0.1, 0.2, 0.3]},
    "odd names": {"model": "$\\frac{\x1b[31m\n.pt", "data": "a: [b\n# c" * 30},
}


def spread(low: float, high: float):
    """Norms of which a tenth is high."""
    return distribution([Step(1.0, n, 4) for n in [low] * 30 + [low] * 90 + [high] * 10], 0.01, 1)


@pytest.mark.parametrize(
    ("optimizer", "norms", "expected"),
    [
        ("SGD", spread(30, 500), None),
        ("MuSGD", spread(30, 500), None),
        ("AdamW", spread(30, 500), 500.0),
        ("SGD", spread(0.5, 2), 2.0),
        ("AdamW", spread(0.5, 2), 2.0),
        ("AdamW", spread(5, 9), None),
        ("AdamW", distribution([Step(1.0, math.nan, 4)], 0.01, 1), None),
    ],
)
def test_which_clip_value_is_tried(optimizer, norms, expected):
    assert clip_to_try(optimizer, norms) == expected


def test_which_rate_is_tried():
    found = result(ratios=[4.8 * 1e-5 * 1e5 ** (i / 39) for i in range(40)]).lr_range
    assert lr_to_try(found, 0.1) == pytest.approx(0.003, rel=0.3)
    assert lr_to_try(found, 0.0001) == pytest.approx(0.003, rel=0.3)
    assert lr_to_try(found, found.lr_suggested * 1.2) is None, "not worth a trial"


def test_what_was_better_is_recommended():
    found = result(tried=trial(arm(9.0, 9.1), arm(7.0, 7.1, lr0=0.003), arm(6.0, 6.1, lr0=0.003, max_norm=50.0)))
    assert (found.advice.lr0, found.advice.max_norm) == (0.003, 50.0)
    assert "Set lr0=0.003 with AdamW and clip.max_norm=50: better in short trainings." in found.headline
    assert found.advice.lr0_reason.startswith(
        "lr0=0.003 ended at a validation loss of 7.05, your 0.01 at 9.05: better by more than seeds differ (0.1)."
    )


def test_a_clip_value_that_was_better_does_not_bring_a_rate_along_that_was_not():
    found = result(tried=trial(arm(9.0, 9.1), arm(9.0, 9.2, lr0=0.003), arm(6.0, 6.1, max_norm=50.0)))
    assert (found.advice.lr0, found.advice.max_norm) == (0.01, 50.0)


def test_what_was_not_better_is_not_recommended():
    found = result(tried=trial(arm(9.0, 9.1), arm(8.95, 9.0, lr0=0.003), arm(11.0, 11.1, max_norm=50.0)))
    assert (found.advice.lr0, found.advice.max_norm) == (0.01, 10.0)
    assert "Keep your settings: lr0=0.01, clip.max_norm=10." in found.headline
    assert "seeds differ by as much" in found.advice.lr0_reason
    assert "worse by more than seeds differ" in found.advice.max_norm_reason


def test_without_time_nothing_is_recommended():
    found = result()
    assert (found.advice.lr0, found.advice.max_norm) == (0.01, 10.0)
    assert "There was no time for short trainings: nothing was verified. Give a larger --budget." in found.advice.notes


def test_a_rate_over_the_edge_is_not_called_fine():
    found = result(lr0=0.5, ratios=[4.8 * 1e-5 * 1e5 ** (i / 39) for i in range(40)])
    assert "lr0=0.5 looks too high, but no other rate was shown to be better." in found.headline
    assert "Keep" not in found.headline


def test_nothing_is_called_fine_where_nothing_lived():
    found = result(**RESULTS["nothing lived"])
    assert "Training broke down in the short trainings, whatever was tried." in found.headline
    assert found.advice.lr0_reason.startswith("Training broke down with your 0.01 and with lr0=0.003.")


def test_training_that_breaks_down_is_named():
    found = result(tried=trial(arm(NAN, NAN), arm(7.0, 7.1, lr0=0.003)))
    assert found.advice.lr0 == 0.003
    assert found.advice.lr0_reason.startswith("Training broke down with your 0.01, not with lr0=0.003.")


@pytest.mark.parametrize("name", RESULTS)
def test_yaml_is_a_configuration(tmp_path, name):
    found = result(**RESULTS[name])
    path = tmp_path / "probe.yaml"
    path.write_text(found.to_yaml(), encoding="utf-8")
    assert Config.load(path).clip.max_norm == found.advice.max_norm
    assert yaml.safe_load(found.to_yaml()).keys() == {"clip"}
    assert f"lr0={found.advice.lr0:g}" in found.to_yaml()
    assert max(map(len, found.to_yaml().splitlines())) <= 120


@pytest.mark.parametrize("name", RESULTS)
def test_table_fits_a_terminal(name):
    text = result_table.table(result(**RESULTS[name]))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_shows_the_short_trainings():
    text = result_table.table(result(**RESULTS["verified"]))
    rows = [line[18:].split() for line in text.splitlines()]
    at = rows.index(["lr0", "max_norm", "12", "24"])
    assert rows[at + 1 : at + 4] == [
        ["0.01", "10", "8", "9.05"], ["0.003", "10", "8", "7.05"], ["0.003", "50", "8", "6.05"]
    ]  # fmt: skip
    ends = {len(line) for line in text.splitlines()[at : at + 4]}
    assert len(ends) == 1, "the columns stand under each other"


@pytest.mark.parametrize("name", RESULTS)
def test_json_is_strict_and_comes_back(tmp_path, name):
    found = result(**RESULTS[name])
    found.save(tmp_path / "probe.json")
    text = (tmp_path / "probe.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert ProbeResult.load(tmp_path / "probe.json") == found


def test_what_is_no_result_is_said_to_be_none(tmp_path):
    (tmp_path / "probe.json").write_text('{"schema_version": 3}')
    with pytest.raises(ProbeError, match="this version"):
        ProbeResult.load(tmp_path / "probe.json")


@pytest.mark.parametrize("name", RESULTS)
def test_picture(tmp_path, name):
    path = plot.draw(result(**RESULTS[name]), tmp_path / "probe.png")
    assert imread(path).shape == (1900, 4200, 4)


def test_every_field_is_described():
    schema = ProbeResult.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part["properties"].items():
            assert field.get("description"), name


def test_figures():
    assert [brief(x) for x in (1123.0, 123.4, 1.23, 0.00123, 1e9, 0.0, INF)] == [
        *("1100", "120", "1.2", "0.0012", "1e+09", "0", "inf")
    ]
