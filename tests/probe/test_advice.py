"""From findings to settings, and how they are shown: terminal, YAML, JSON, picture."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from matplotlib.image import imread

from tests.probe.toys import result
from yolo_gradsafe.config import Config
from yolo_gradsafe.probe import ProbeError, ProbeResult, plot, result_table
from yolo_gradsafe.probe.advice import clip_value, first_lr
from yolo_gradsafe.probe.norms import distribution
from yolo_gradsafe.probe.parts import brief
from yolo_gradsafe.probe.steps import Step

NAN, INF = math.nan, math.inf
RESULTS = {
    "healthy": {},
    "sgd": {"optimizer": "SGD"},
    "musgd": {"optimizer": "MuSGD", "optimizer_auto": True},
    "exploding": {"gain": 1e9},
    "nothing finite": {"norms": [NAN] * 5, "losses": [NAN]},
    "small norms": {"norms": [0.1, 0.2, 0.3]},
    "odd names": {"model": "$\\frac{\x1b[31m\n.pt", "data": "a: [b\n# c" * 30},
}


def spread(low: float, high: float):
    """Norms of which a twentieth is high."""
    return distribution([1.0], [Step(1.0, n, 4) for n in [low] * 90 + [high] * 10], 0.01, 1)


@pytest.mark.parametrize(
    ("optimizer", "norms", "expected"),
    [
        ("SGD", spread(30, 500), 10.0),
        ("MuSGD", spread(30, 500), 10.0),
        ("AdamW", spread(30, 500), 500.0),
        ("SGD", spread(0.5, 2), 2.0),
        ("AdamW", spread(0.5, 2), 2.0),
        ("AdamW", distribution([1.0], [Step(1.0, n, 4) for n in [1.0] * 97 + [90.0] * 3], 0.01, 1), 10.0),
        ("AdamW", distribution([1.0], [Step(1.0, NAN, 4)], 0.01, 1), 10.0),
    ],
)
def test_clip_value(optimizer, norms, expected):
    assert clip_value(optimizer, norms)[0] == expected


def test_lr_without_learning_is_the_users_if_safe():
    flat = result(losses=[5.0] * 40).lr_range
    assert first_lr(flat, 0.01) == 0.01
    assert first_lr(flat, 0.9) == 0.1
    learned = result().lr_range
    assert first_lr(learned, 0.9) == pytest.approx(learned.lr_suggested, rel=0.05)


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


@pytest.mark.parametrize("name", RESULTS)
def test_json_is_strict_and_comes_back(tmp_path, name):
    found = result(**RESULTS[name])
    found.save(tmp_path / "probe.json")
    text = (tmp_path / "probe.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert ProbeResult.load(tmp_path / "probe.json") == found


def test_what_is_no_result_is_said_to_be_none(tmp_path):
    (tmp_path / "probe.json").write_text('{"schema_version": 2}')
    with pytest.raises(ProbeError, match="this version"):
        ProbeResult.load(tmp_path / "probe.json")


@pytest.mark.parametrize("name", RESULTS)
def test_picture(tmp_path, name):
    path = plot.draw(result(**RESULTS[name]), tmp_path / "probe.png")
    assert imread(path).shape == (1900, 2800, 4)


def test_every_field_is_described():
    schema = ProbeResult.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part["properties"].items():
            assert field.get("description"), name


def test_figures():
    assert [brief(x) for x in (1123.0, 123.4, 1.23, 0.00123, 1e9, 0.0, INF)] == [
        *("1100", "120", "1.2", "0.0012", "1e+09", "0", "inf")
    ]
