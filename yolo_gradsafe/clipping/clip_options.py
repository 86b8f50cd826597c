"""The options of clipping: which rule, how it is set, and for which part of the model; imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, ValidationError, create_model, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from yolo_gradsafe.clipping.registry import RuleSection, aliases, mode_names, registered
from yolo_gradsafe.clipping.rules import BUILT_IN
from yolo_gradsafe.config_base import Section

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.base import Clipper

__all__ = ["ClipOptions", "RuleOptions", "SharedOptions"]


def _readers(option: str, word: str) -> str:
    """Name the rules that read a shared option, those that read the most of them first: ``zscore, auto and adagc``."""
    rules = sorted(BUILT_IN, key=lambda rule: -len(rule.section.reads))
    *names, last = [rule.mode for rule in rules if option in rule.section.reads]
    return f"{', '.join(names)} {word} {last}"


def _with_sections(options: type[Section]) -> type[Section]:
    """Add the options of each built-in rule, as a section named like its mode; a rule may have none."""
    sections: dict[str, Any] = {
        rule.mode: (
            rule.section,
            Field(default_factory=rule.section, description=f"Mode {rule.mode}: {rule.heading}"),
        )
        for rule in BUILT_IN
        if rule.section.model_fields
    }
    return create_model(options.__name__, __base__=options, __module__=options.__module__, **sections)


@_with_sections
class SharedOptions(Section):
    """Which rule, and what several rules read."""

    mode: str = Field(
        default="norm",
        json_schema_extra={"examples": [*mode_names()]},
        description=f"(str) clipping rule: {', '.join(f'{rule.mode} ({rule.summary})' for rule in BUILT_IN)}, "
        "or a name given to yolo_gradsafe.clipping.register",
    )
    max_norm: float = Field(
        default=10.0,
        gt=0,
        description="(float) > 0, L2 norm of the unscaled gradients of one optimizer step above which they are scaled "
        "down; 10.0 is the fixed value in Ultralytics. "
        f"In {_readers('warmup_steps', 'and')} it is used during warmup_steps only",
    )
    warmup_steps: int = Field(
        default=100,
        ge=0,
        description=f"(int) >= 0, optimizer steps during which {_readers('warmup_steps', 'and')} clip by max_norm like "
        "plain Ultralytics and only collect norms; 100 is the shortest warm-up of Ultralytics",
    )
    patience: int = Field(
        default=20,
        ge=2,
        description="(int) >= 2, after this many outliers on the same side, within twice as many optimizer steps, "
        f"{_readers('patience', 'and')} take them as the new normal level (end of warm-up, close_mosaic) and "
        "start again from there",
    )
    ceiling: float | None = Field(
        default=None,
        gt=0,
        description=f"(float) > 0 or null, norm that no threshold of {_readers('ceiling', 'or')} exceeds after the "
        "warm-up; null (no limit), because a lasting high level is usually legitimate",
    )


class RuleOptions(SharedOptions):
    """One clipping rule and its settings."""

    options: dict[str, Any] = Field(
        default={}, description="(dict) keyword arguments of a rule that you registered; for no other mode"
    )

    _rule: type[Clipper] | None = PrivateAttr(default=None)

    @field_validator("mode", mode="before")
    @classmethod
    def _spelled(cls, mode: Any) -> Any:
        """Take other names of a built-in rule, and ``off``, which YAML reads as False, for its mode."""
        if mode is False:
            return "none"
        if not isinstance(mode, str) or mode in mode_names():
            return mode
        name = mode.lower().replace("-", "_")
        return name if name in mode_names() else aliases().get(name, mode)

    @field_validator("mode")
    @classmethod
    def _known(cls, mode: str) -> str:
        if mode not in mode_names():
            expected = ", ".join(f"'{name}'" for name in mode_names())
            raise PydanticCustomError(
                "clip_mode", "Input should be one of {expected}", {"expected": expected, "aliases": aliases()}
            )
        return mode

    def model_post_init(self, context: Any) -> None:
        """Keep the registered class with the options, so that it is pickled with them."""
        self._rule = registered(self.mode)

    @property
    def rule(self) -> type[Clipper] | None:
        """The class that a user registered under the mode; None for a built-in mode."""
        return self._rule

    @property
    def section(self) -> RuleSection:
        """The options of the built-in rule that the mode names."""
        section = {rule.mode: rule.section for rule in BUILT_IN}[self.mode]
        options: RuleSection = getattr(self, self.mode) if section.model_fields else section()
        return options


class ClipOptions(RuleOptions):
    """How gradients that are too large are made smaller."""

    per_image: bool = Field(
        default=False,
        description="(bool) divide norms by the number of images in the optimizer step first; max_norm, limit, "
        "clip_factor and ceiling are then per image, and one setting means the same at any batch size and "
        "accumulation, because Ultralytics sums its loss over the batch",
    )
    stages: dict[str, RuleOptions] = Field(
        default={},
        description="(dict) own rules for parts of the model, which are then clipped separately: {stage or glob of "
        "parameter names: {option of clip: value}}; missing options are inherited; the first match wins; 'head' also "
        "matches 'head.box'",
    )

    @model_validator(mode="after")
    def _keywords_fit(self) -> ClipOptions:
        """Check the keywords of registered rules where they are inherited and merged."""
        for rule, place in [(self, ()), *((self.rule_for(key), ("stages", key)) for key in self.stages)]:
            if problem := _misfit(rule):
                details = InitErrorDetails(type=problem, loc=(*place, "options"), input=rule.options)
                raise ValidationError.from_exception_data("clip", [details])
        return self

    def rule_for(self, key: str) -> RuleOptions:
        """Return the whole rule of an override: what it sets, over what it inherits."""
        own = self.stages[key].model_dump(exclude_unset=True)
        inherited = self.model_dump(include=set(RuleOptions.model_fields))
        if own.get("mode", self.mode) != self.mode:
            inherited["options"] = {}  # another class has other keywords
        merged = {
            name: {**value, **own.get(name, {})} if isinstance(value, Mapping) else own.get(name, value)
            for name, value in inherited.items()
        }
        return RuleOptions.model_validate(merged)


def _misfit(rule: RuleOptions) -> PydanticCustomError | None:
    """Say why a rule's class does not take its ``options``; None when it does."""
    if rule.rule is None:
        reason = f"only a registered rule takes options, mode '{rule.mode}' is built in"
        return PydanticCustomError("clip_options", "{reason}", {"reason": reason}) if rule.options else None
    signature = inspect.signature(rule.rule)
    try:
        signature.bind(**rule.options)
    except TypeError as error:
        return PydanticCustomError(
            "clip_options",
            "Mode '{mode}' takes {signature}: {reason}",
            {"mode": rule.mode, "signature": str(signature), "reason": str(error)},
        )
    return None
