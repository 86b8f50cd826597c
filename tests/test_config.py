"""The options: where they come from, what is wrong with them, and how they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from yolo_gradsafe.config import Config, option_names, parse_value, preset_lines, preset_names, preset_path
from yolo_gradsafe.config_errors import ConfigError

EVERYTHING = {
    "clip": {
        "mode": "auto",
        "max_norm": 1e-7,
        "ceiling": 5.5,
        "agc": {"exclude": ["model.0.*", "head.class"]},
        "auto": {"window": 50},
        "stages": {
            "head.box": {"mode": "agc", "agc": {"eps": 1e-5, "exclude": []}},
            "model.22.cv3.*": {"mode": "none", "ceiling": None},
        },
    },
    "recovery": {"enabled": False},
}


def failure(source=None, **overrides) -> str:
    """Return the message of the error that a configuration raises."""
    with pytest.raises(ConfigError) as error:
        Config.load(source, overrides.get("overrides"))
    return str(error.value)


# Where values come from ---------------------------------------------------------------------------------------------


def test_defaults_are_stock():
    config = Config.load()
    assert (config.clip.mode, config.clip.max_norm, config.clip.per_image) == ("norm", 10.0, False)
    assert config == Config()


def test_keywords_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("clip:\n  max_norm: 3.0\n  patience: 7\n")
    config = Config.load(file, {"clip": {"max_norm": 2.0}})
    assert (config.clip.max_norm, config.clip.patience, config.clip.warmup_steps) == (2.0, 7, 100)
    assert Config.load(str(file)).clip.max_norm == 3.0
    assert Config.load("rescue", {"clip.patience": 9}).clip.max_norm == 1.0


def test_dotted_names_and_sections_mix():
    config = Config.load({"clip.zscore.z": 4.0, "clip": {"mode": "zscore"}}, {"clip.zscore.alpha": 0.5})
    assert (config.clip.mode, config.clip.zscore.z, config.clip.zscore.alpha) == ("zscore", 4.0, 0.5)


@pytest.mark.parametrize(
    ("short", "clip", "enabled"),
    [
        ({"max_norm": 5}, ("norm", 5.0), True),
        ({"clip": 5}, ("norm", 5.0), True),
        ({"clip": "agc"}, ("agc", 10.0), True),
        ({"clip": "AutoClip", "max_norm": 3}, ("percentile", 3.0), True),
        ({"clip.mode": "zclip"}, ("zscore", 10.0), True),
        ({"clip": {"mode": "clip-norm"}}, ("norm", 10.0), True),
        ({"clip": False}, ("none", 10.0), True),
        ({"clip.mode": False}, ("none", 10.0), True),
        ({"clip": True}, ("norm", 10.0), True),
        ({"recovery": False}, ("norm", 10.0), False),
        ({"recovery": True}, ("norm", 10.0), True),
    ],
)
def test_short_forms_are_written_out(short, clip, enabled):
    for config in (Config.load(short), Config.load(None, short)):
        assert (config.clip.mode, config.clip.max_norm, config.recovery.enabled) == (*clip, enabled)


def test_short_forms_leave_the_rest_of_the_source():
    assert Config.load("rescue", {"max_norm": 5}).recovery.scale_floor == 16.0
    assert Config.load("rtdetr", {"clip": "agc"}).clip.max_norm == 0.1
    assert Config.load({"clip": {"agc": {"eps": 0.1}}}, {"clip": "agc"}).clip.agc.eps == 0.1


def test_a_preset_may_be_named_as_a_keyword():
    assert Config.load(None, {"preset": "rescue", "max_norm": 5}) == Config.load("rescue", {"clip.max_norm": 5})
    assert "given twice: 'detect' and preset='pose'" in failure("detect", overrides={"preset": "pose"})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("agc", "A clipping rule is clip=agc."),
        ("AutoClip", "A clipping rule is clip=AutoClip."),
        ("detcet", "Did you mean 'detect'?"),
        (5, "A number is max_norm=5."),
    ],
)
def test_a_source_that_is_none_is_pointed_to_what_was_meant(source, words):
    assert words in failure(source)


def test_every_preset_says_in_a_line_what_it_is_for_and_what_it_changes():
    lines = {line.split()[0]: line for line in preset_lines()}
    assert [*lines] == preset_names()
    assert lines["rescue"].endswith("Changes clip.max_norm=1.0, recovery.scale_floor=16.0.")
    assert lines["detect"].endswith("Changes nothing: the defaults.")
    assert "For a run that died" in lines["rescue"]


def test_options_are_listed_by_their_dotted_names():
    assert {"clip.max_norm", "clip.agc.eps", "recovery.enabled"} <= set(option_names())
    assert not {"clip", "clip.agc"} & set(option_names())


def test_stages_merge_by_key_and_keep_their_order():
    config = Config.load(
        {"clip": {"stages": {"head.box": {"max_norm": 5.0}, "head": {"mode": "none"}}}},
        {"clip.stages": {"head.box": {"patience": 9}, "neck": {}}},
    )
    assert list(config.clip.stages) == ["head.box", "head", "neck"]
    assert config.clip.stages["head.box"].model_dump(exclude_unset=True) == {"max_norm": 5.0, "patience": 9}


def test_an_override_inherits_what_it_does_not_set():
    clip = Config.load(EVERYTHING).clip
    box = clip.rule_for("head.box")
    assert (box.mode, box.max_norm, box.ceiling, box.agc.eps, box.agc.clip_factor) == ("agc", 1e-7, 5.5, 1e-5, 0.01)
    assert box.auto.window == 50
    assert clip.rule_for("model.22.cv3.*").ceiling is None


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert Config.load(tmp_path / "empty.yaml") == Config()


def test_sources_are_not_changed():
    source, overrides = {"clip": {"max_norm": 1.0}}, {"clip.max_norm": 2.0}
    Config.load(source, overrides)
    assert (source, overrides) == ({"clip": {"max_norm": 1.0}}, {"clip.max_norm": 2.0})


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1E5", 1e5), ("-2e-7", -2e-7), ("5", 5), ("1.5", 1.5)])
def test_numbers_are_numbers(text, value, tmp_path):
    assert parse_value(text) == value
    (tmp_path / "n.yaml").write_text(f"clip: {{max_norm: {text}}}")
    if value > 0:
        assert Config.load(tmp_path / "n.yaml").clip.max_norm == value


def test_other_values_of_the_command_line():
    assert parse_value("true") is True
    assert parse_value("norm") == "norm"
    assert parse_value("{head: {max_norm: 5}}") == {"head": {"max_norm": 5}}
    with pytest.raises(ConfigError, match="readable as YAML"):
        parse_value("{a: ")


# What is wrong with them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip.max_nrm": 1}, ["clip.max_nrm", "unknown", "max_norm", "warmup_steps", "Did you mean 'max_norm'?"]),
        ({"clp.max_norm": 1}, ["clp", "unknown", "recovery", "Did you mean 'clip'?"]),
        ({"clip.auto.windw": 3}, ["clip.auto.windw", "deviations", "Did you mean 'window'?"]),
        ({"clip.mode": "zsore"}, ["clip.mode", "'zsore'", "'norm'", "'adagc'", "Did you mean 'zscore'?"]),
        ({"clip.mode": 3}, ["clip.mode", "valid string", "got 3"]),
        ({"clip.max_norm": 0}, ["clip.max_norm", "greater than 0", "got 0"]),
        ({"clip.max_norm": float("nan")}, ["clip.max_norm", "finite", "got nan"]),
        ({"clip.max_norm": "10"}, ["clip.max_norm", "valid number", "got '10'"]),
        ({"clip.patience": 1}, ["clip.patience", "greater than or equal to 2", "got 1"]),
        ({"clip.patience": 2.5}, ["clip.patience", "integer", "got 2.5"]),
        ({"clip.zscore.alpha": 1.0}, ["clip.zscore.alpha", "less than 1", "got 1.0"]),
        ({"clip.per_image": 1}, ["clip.per_image", "boolean", "got 1"]),
        ({"clip.ceiling": 0}, ["clip.ceiling", "greater than 0", "got 0"]),
        ({"clip": [5]}, ["clip", "a rule's name, a number for max_norm or a section with mode", "got [5]"]),
        ({"clip": -5}, ["clip.max_norm", "greater than 0", "got -5"]),
        ({"clip": "acg"}, ["clip.mode", "got 'acg'", "Did you mean 'agc'?"]),
        ({"clip": "autoclp"}, ["clip.mode", "got 'autoclp'", "Did you mean 'percentile'?"]),
        ({"recovery": 3}, ["recovery", "expected true, false or a section with enabled", "got 3"]),
        ({"report": False}, ["report", "expected a section with plot, console", "got False"]),
        ({"mode": "agc"}, ["mode: unknown option", "Did you mean 'clip.mode'?"]),
        ({"max_grad_norm": 5}, ["max_grad_norm: unknown option", "Did you mean 'clip.max_norm'?"]),
        ({"recovery.max_norm": 5}, ["recovery.max_norm: unknown", "Did you mean 'clip.max_norm'?"]),
        ({"clip.clip_factor": 1}, ["clip.clip_factor: unknown", "Did you mean 'clip.agc.clip_factor'?"]),
        ({"window": 5}, ["Did you mean 'clip.percentile.window' or 'clip.auto.window'?"]),
        ({"clip.agc": [1]}, ["clip.agc", "expected a section with clip_factor, eps, exclude", "got [1]"]),
        ({"clip.agc.exclude": "head"}, ["clip.agc.exclude", "list", "got 'head'"]),
        ({"clip.agc.exclude": [1]}, ["clip.agc.exclude.0", "string", "got 1"]),
        ({"clip.stages": 5}, ["clip.stages", "dictionary", "got 5"]),
        ({"clip.stages": {"head": 5}}, ["clip.stages.head", "expected a section with mode", "got 5"]),
        ({"clip.stages": {"head": {"max_nrm": 5}}}, ["clip.stages.head.max_nrm", "Did you mean 'max_norm'?"]),
        ({"clip.stages": {"head": {"agc": {"epss": 5}}}}, ["clip.stages.head.agc.epss", "Did you mean 'eps'?"]),
        ({"clip.stages": {"head": {"per_image": True}}}, ["clip.stages.head.per_image", "unknown"]),
        ({"clip.stages": {"a.*": {"mode": "nrm"}}}, ["clip.stages.a.*.mode", "'nrm'", "Did you mean 'norm'?"]),
        ({"clip.options": {"a": 1}}, ["clip.options", "registered", "got {'a': 1}"]),
        ({"telemetry.flush_steps": 0}, ["telemetry.flush_steps", "greater than or equal to 1", "got 0"]),
        ({3: 1}, ["option 3 is not a name"]),
    ],
)
def test_an_error_names_option_value_and_what_is_allowed(options, words):
    message = failure(options)
    for word in words:
        assert word in message


def test_all_errors_are_told_at_once():
    message = failure({"clip.max_norm": -1, "recovery.enabld": 1, "report": {"plot": "yes"}})
    assert all(word in message for word in ("clip.max_norm", "Did you mean 'enabled'?", "report.plot"))


def test_the_origin_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("clip: {max_norm: -1}")
    assert str(file) in failure(file)
    assert "dict" in failure({"clip": -1})
    assert "keyword" in failure(overrides={"clip": -1})


def test_a_key_given_twice_is_an_error(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("clip:\n  max_norm: 1.0\n  mode: norm\n  max_norm: 2.0\n")
    assert "given twice: max_norm" in failure(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"clip: [", "not readable as YAML"), (b"- 1\n", "expected options"), (b"\xff\xfe\x00", "not readable")],
)
def test_an_unreadable_file_is_named(tmp_path, content, words):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    message = failure(file)
    assert words in message
    assert str(file) in message


def test_a_missing_file_or_preset_is_named_with_the_presets():
    message = failure("detct")
    assert all(word in message for word in ("'detct'", "detect, monitor, pose", "Did you mean 'detect'?"))
    assert "no such file" in failure(Path("/nowhere/x.yaml"))
    assert "expected a YAML path" in failure(5)


def test_options_do_not_change_after_they_were_built():
    with pytest.raises(ValueError, match="frozen"):
        Config.load().clip.max_norm = 3.0


# How they are written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [None, EVERYTHING, {"clip.stages": {"off": {"mode": "none"}, "1": {}}}])
def test_what_is_written_reads_back_the_same(source, tmp_path):
    config = Config.load(source)
    file = tmp_path / "all.yaml"
    file.write_text(config.to_yaml())
    assert Config.load(file) == config
    assert Config.load(file).to_yaml() == config.to_yaml()
    assert yaml.safe_load(config.to_yaml())["clip"]["mode"] == config.clip.mode


def test_every_option_is_written_under_its_description():
    text = Config.load(EVERYTHING).to_yaml()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    for name in ("  mode: auto", "  max_norm: 1.0e-07", "  ceiling: 5.5", "    window: 50", "  stages:"):
        assert lines[lines.index(name) - 1].strip().startswith("#")
    assert "    exclude: [model.0.*, head.class]\n" in text
    assert "    model.22.cv3.*: {mode: none, ceiling: null}\n" in text


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_its_own_rendering_under_a_header(name):
    text = preset_path(name).read_text()
    header, _, body = text.partition("\n\n")
    assert all(line.startswith("# ") for line in header.splitlines())
    assert f"gradsafe={name}" in header
    assert body == Config.load(name).to_yaml()


def test_the_presets():
    assert preset_names() == ["detect", "monitor", "pose", "rescue", "rtdetr"]
    assert Config.load("detect") == Config.load("pose") == Config()
    assert Config.load("monitor") == Config.load(None, {"recovery.enabled": False})
    assert Config.load("rescue").clip.max_norm == 1.0
    assert Config.load("rtdetr").clip.max_norm == 0.1


def test_the_json_schema_describes_every_option():
    schema = json.loads(json.dumps(Config.model_json_schema()))
    rule = schema["$defs"]["RuleOptions"]["properties"]
    assert set(schema["properties"]) == {"clip", "recovery", "forensics", "telemetry", "loggers", "report"}
    assert schema["$defs"]["ClipOptions"]["properties"]["stages"]["additionalProperties"]["$ref"].endswith(
        "RuleOptions"
    )
    assert rule["max_norm"]["exclusiveMinimum"] == 0
    for section in schema["$defs"].values():
        assert section["additionalProperties"] is False
        assert all(option.get("description") for option in section["properties"].values())
