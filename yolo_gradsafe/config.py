"""The options: typed, documented, strict; YAML in, commented YAML and JSON schema out.

A configuration is built once, before training starts, from the defaults, then a file (or preset, or dict), then
keywords. Whatever is wrong with it is reported there, by the option's name, so that a wrong option never starts a run.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from yolo_gradsafe.clipping.clip_options import ClipOptions
from yolo_gradsafe.clipping.registry import aliases, mode_names
from yolo_gradsafe.config_base import Section
from yolo_gradsafe.config_errors import ConfigError, nearest
from yolo_gradsafe.forensics.options import ForensicsOptions
from yolo_gradsafe.loggers.steps import LoggersOptions
from yolo_gradsafe.recovery.options import RecoveryOptions

__all__ = [
    "Config",
    "option_names",
    "parse_value",
    "preset_lines",
    "preset_names",
    "preset_path",
]

Source = str | Path | Mapping[str, Any] | None

_ELSEWHERE = {
    name: "clip.max_norm"
    for name in (
        "clip_norm",
        "clip_grad",
        "clip_grad_norm",
        "grad_clip",
        "gradient_clip_val",
        "max_grad_norm",
        "threshold",
    )
}
"""Options by the names that they have in other libraries."""


class TelemetryOptions(Section):
    """What is written while training runs."""

    flush_steps: int = Field(
        default=100,
        ge=1,
        description="(int) >= 1, steps.csv is written to disk after this many optimizer steps; a crash loses at "
        "most these",
    )
    flush_seconds: float = Field(
        default=5.0,
        gt=0,
        description="(float) > 0, steps.csv is written to disk after this many seconds, if that is earlier",
    )
    update_ratio_steps: int = Field(
        default=100,
        ge=0,
        description="(int) >= 0, measure the update-to-weight ratio every this many optimizer steps; 0: never",
    )
    results_csv: bool = Field(
        default=True, description="(bool) add gradsafe/* columns to results.csv and so to every Ultralytics logger"
    )


class ReportOptions(Section):
    """What is shown at the end."""

    plot: bool = Field(
        default=True,
        description="(bool) draw stability.png at the end of training; needs Ultralytics' plots=True as well",
    )
    console: bool = Field(
        default=True, description="(bool) print a line after an epoch with an event, and a table at the end"
    )


class Config(Section):
    """All options of yolo-gradsafe, resolved."""

    clip: ClipOptions = Field(default_factory=ClipOptions, description="Clipping")
    recovery: RecoveryOptions = Field(default_factory=RecoveryOptions, description="Recovery from NaN and Inf")
    forensics: ForensicsOptions = Field(
        default_factory=ForensicsOptions, description="Data check, and the investigation of bad steps"
    )
    telemetry: TelemetryOptions = Field(default_factory=TelemetryOptions, description="Records of the run")
    loggers: LoggersOptions = Field(default_factory=LoggersOptions, description="TensorBoard, W&B, MLflow")
    report: ReportOptions = Field(default_factory=ReportOptions, description="Report at the end")

    @classmethod
    def load(cls, source: Source = None, overrides: Mapping[str, Any] | None = None) -> Config:
        """Build a configuration from the defaults, then ``source``, then ``overrides``.

        Args:
            source: A YAML path, a preset's name, a mapping, or None for the defaults.
            overrides: Options that win over the source: sections as mappings (``{"clip": {"max_norm": 5}}``), dotted
                names (``{"clip.max_norm": 5}``), or both; ``preset`` is the source by another name. Short forms, here
                and in the source: ``max_norm=5``, ``clip=5``, ``clip="agc"``, ``clip=False``, ``recovery=False``.

        Raises:
            ConfigError: An unknown option, a wrong type, a value out of range, or a file that is missing or unreadable.
        """
        given = dict(overrides or {})
        preset = given.pop("preset", None)
        if preset is not None and source is not None:
            raise ConfigError(f"options are given twice: {source!r} and preset={preset!r}; use only one of them.")
        values, origin = _read(preset if source is None else source)
        values = _merge(_nest(_spelled_out(values), origin), _nest(_spelled_out(given), "keyword"))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(error, origin)) from None

    def to_yaml(self) -> str:
        """Render as YAML in which every option carries its description, like Ultralytics' ``default.yaml``."""
        return "\n".join(_render(self)) + "\n"


def parse_value(text: str) -> Any:
    """Parse an option's value from a command line, as YAML: ``5``, ``1e-3``, ``true``, ``norm``.

    Raises:
        ConfigError: The text is no YAML value.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"value {text!r}: not readable as YAML: {error}") from None


def preset_path(name: str) -> Path:
    """Return where a preset lies: inside an installed wheel, or in ``configs/`` of a checkout."""
    return _preset_folder() / f"{name}.yaml"


def preset_names() -> list[str]:
    """List the presets that ``GradSafe("name")`` and ``gradsafe=name`` accept."""
    return sorted(path.stem for path in _preset_folder().glob("*.yaml"))


def _preset_folder() -> Path:
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number (YAML 1.1 wants 1.0e-3) and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"option given twice: {', '.join(sorted(twice))}", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read(source: object) -> tuple[Mapping[str, Any], str]:
    """Return the mapping that a source holds, and the words that name the source in an error."""
    if source is None:
        return {}, "keyword"
    if isinstance(source, Mapping):
        return source, "dict"
    if not isinstance(source, (str, Path)):
        number = isinstance(source, (int, float)) and not isinstance(source, bool)
        hint = f" A number is max_norm={source!r}." if number else ""
        raise ConfigError(f"config source {source!r}: expected a YAML path, a preset's name or a dict.{hint}")
    path = Path(source)
    if isinstance(source, str) and source in preset_names():
        path = preset_path(source)
    elif not path.is_file():
        presets, rules = preset_names(), {*mode_names(), *aliases()}
        hint = f" A clipping rule is clip={source}." if str(source).lower() in rules else nearest(path.stem, presets)
        raise ConfigError(f"config '{source}': no such file or preset. Presets: {', '.join(presets)}.{hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config '{path}': not readable as YAML: {error}") from None
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"config '{path}': expected options as 'section: ...', got {type(values).__name__}.")
    return values or {}, str(path)


def _spelled_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the short forms of options in full."""
    full: dict[str, Any] = {}
    for name, value in values.items():
        if name == "max_norm":
            name = "clip.max_norm"
        elif name == "clip" and value is True:
            value = {}
        elif name == "clip" and (value is False or isinstance(value, str)):
            value = {"mode": value}
        elif name == "clip" and isinstance(value, (int, float)):
            value = {"max_norm": value}
        elif name == "on_incident":
            name = "loggers.on_incident"
        elif name == "recovery" and isinstance(value, bool):
            value = {"enabled": value}
        full[name] = value
    return full


def _nest(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Turn dotted names into nested mappings."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ConfigError(f"{origin}: option {name!r} is not a name.")
        head, _, rest = name.partition(".")
        nested = _merge(nested, {head: _nest({rest: value}, origin) if rest else value})
    return nested


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; neither is changed."""
    merged = dict(base)
    for name, value in top.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, origin: str) -> str:
    """Say which options are wrong, with what value, what is allowed, and what was probably meant."""
    lines = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            allowed = list(_section_at(problem["loc"][:-1]).model_fields)
            hint = _neighbour(str(problem["loc"][-1]), allowed)
            lines.append(f"{name}: unknown option. Allowed: {', '.join(allowed)}.{hint}")
        elif problem["type"] == "model_type":
            fields = ", ".join(_section_at(problem["loc"]).model_fields)
            also = {"clip": "a rule's name, a number for max_norm or ", "recovery": "true, false or "}.get(name, "")
            lines.append(f"{name}: expected {also}a section with {fields}; got {problem['input']!r}.")
        else:
            allowed = re.findall(r"'([^']+)'", problem.get("ctx", {}).get("expected", ""))
            hint = nearest(str(problem["input"]), allowed, problem.get("ctx", {}).get("aliases"))
            lines.append(f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}; got {problem['input']!r}.{hint}")
    return f"wrong options ({origin}):\n  " + "\n  ".join(lines)


def _neighbour(name: str, allowed: list[str]) -> str:
    """Phrase where an option of that name is, else the nearest name of its section, as a question."""
    if places := [path for path in _option_names(Config) if path.rpartition(".")[2] == name]:
        return f" Did you mean {' or '.join(map(repr, places))}?"
    return nearest(name, allowed, _ELSEWHERE)


def _option_names(section: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the dotted names of all options below a section."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _option_names(field.annotation, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def option_names() -> list[str]:
    """List the options by their dotted names, such as ``clip.max_norm``."""
    return list(_option_names(Config))


def preset_lines() -> list[str]:
    """Describe each preset in a line: what it is for, and which defaults it changes."""
    lines = []
    for name in preset_names():
        about = preset_path(name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        changed = ", ".join(f"{key}={json.dumps(value)}" for key, value in preset_changes(name).items())
        lines.append(f"{name:<8} {about} {f'Changes {changed}' if changed else 'Changes nothing: the defaults'}.")
    return lines


def preset_changes(name: str) -> dict[str, Any]:
    """Return the options in which a preset differs from the defaults, by dotted names."""
    preset, defaults = Config.load(name), Config()
    return {path: _value(preset, path) for path in option_names() if _value(preset, path) != _value(defaults, path)}


def _value(config: Config, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _section_at(path: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the section's class at a place in the configuration; a mapping of sections takes any key."""
    place: Any = Config
    for part in path:
        place = place.model_fields[str(part)].annotation if hasattr(place, "model_fields") else get_args(place)[1]
    section: type[BaseModel] = place
    return section


def _render(section: BaseModel, depth: int = 0) -> Iterator[str]:
    """Yield the YAML lines of a section, each option under its description."""
    pad = "  " * depth
    for index, (name, field) in enumerate(type(section).model_fields.items()):
        value = getattr(section, name)
        if depth == 0 and index:
            yield ""
        for line in textwrap.wrap(str(field.description), width=118 - len(pad)):
            yield f"{pad}# {line}"
        if isinstance(value, BaseModel):
            yield f"{pad}{name}:"
            yield from _render(value, depth + 1)
        else:
            yield textwrap.indent(_dump(name, value), pad)


def _dump(name: str, value: Any) -> str:
    """Write one option; of the sections in a mapping only what was set, because they inherit the rest."""
    if isinstance(value, Mapping):
        value = {
            key: item.model_dump(exclude_unset=True) if isinstance(item, BaseModel) else item
            for key, item in value.items()
        }
    # In YAML's own style a list is written in its brackets, but so would be an option that is a lone scalar.
    style = None if isinstance(value, (Mapping, list)) and value else False
    return yaml.safe_dump({name: value}, default_flow_style=style, sort_keys=False).strip()
