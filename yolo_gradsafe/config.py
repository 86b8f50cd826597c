"""The options: typed, documented, strict; YAML in, commented YAML and JSON schema out.

A configuration is built once, before training starts, from the defaults, then a file (or preset, or dict), then
keywords. Whatever is wrong with it is reported there, by the option's name, so that a wrong option never starts a run.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from yolo_gradsafe.clipping.clip_options import ClipOptions
from yolo_gradsafe.config_base import ConfigError, Section, nearest
from yolo_gradsafe.forensics.options import ForensicsOptions
from yolo_gradsafe.loggers.steps import LoggersOptions
from yolo_gradsafe.recovery.options import RecoveryOptions

__all__ = ["Config", "ConfigError", "nearest", "parse_value", "preset_names", "preset_path"]

Source = str | Path | Mapping[str, Any] | None


class TelemetryOptions(Section):
    """What is written while training runs."""

    flush_steps: int = Field(
        default=100,
        ge=1,
        description="(int) >= 1, optimizer steps after which steps.csv is flushed; a crash loses at most these",
    )
    flush_seconds: float = Field(
        default=5.0, gt=0, description="(float) > 0, seconds after which steps.csv is flushed, whichever comes first"
    )
    update_ratio_steps: int = Field(
        default=100,
        ge=0,
        description="(int) >= 0, optimizer steps from one sampling of the update-to-weight ratio to the next; 0: never",
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
        default=True, description="(bool) print a line for an epoch in which something happened, and a table at the end"
    )


class Config(Section):
    """All options of yolo-gradsafe, resolved."""

    clip: ClipOptions = Field(default_factory=ClipOptions, description="Clipping")
    recovery: RecoveryOptions = Field(default_factory=RecoveryOptions, description="Recovery from NaN and Inf")
    forensics: ForensicsOptions = Field(
        default_factory=ForensicsOptions, description="What is wrong with the data, and what made a step bad"
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
                names (``{"clip.max_norm": 5}``), or both.

        Raises:
            ConfigError: An unknown option, a wrong type, a value out of range, or a file that is missing or unreadable.
        """
        values, origin = _read(source)
        values = _merge(_nest(values, origin), _nest(overrides or {}, "keyword"))
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


def _read(source: Source) -> tuple[Mapping[str, Any], str]:
    """Return the mapping that a source holds, and the words that name the source in an error."""
    if source is None:
        return {}, "keyword"
    if isinstance(source, Mapping):
        return source, "dict"
    if not isinstance(source, (str, Path)):
        raise ConfigError(f"config source {source!r}: expected a YAML path, a preset's name or a dict.")
    path = Path(source)
    if isinstance(source, str) and source in preset_names():
        path = preset_path(source)
    elif not path.is_file():
        presets = preset_names()
        raise ConfigError(
            f"config '{source}': no such file or preset. Presets: {', '.join(presets)}."
            + nearest(path.stem or str(source), presets)
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config '{path}': not readable as YAML: {error}") from None
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"config '{path}': expected options as 'section: ...', got {type(values).__name__}.")
    return values or {}, str(path)


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
            last = str(problem["loc"][-1])
            lines.append(f"{name}: unknown option. Allowed: {', '.join(allowed)}." + nearest(last, allowed))
        elif problem["type"] == "model_type":
            fields = ", ".join(_section_at(problem["loc"]).model_fields)
            lines.append(f"{name}: expected a section with {fields}; got {problem['input']!r}.")
        else:
            allowed = re.findall(r"'([^']+)'", problem.get("ctx", {}).get("expected", ""))
            hint = nearest(str(problem["input"]), allowed)
            lines.append(f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}; got {problem['input']!r}.{hint}")
    return f"wrong options ({origin}):\n  " + "\n  ".join(lines)


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
