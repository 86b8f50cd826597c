"""The options of clipping: which rule, how it is set, and for which part of the model; imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from yolo_gradsafe.clipping.modes import mode_names, registered
from yolo_gradsafe.clipping.sections import (
    AdaGCOptions,
    AGCOptions,
    AutoOptions,
    PercentileOptions,
    ValueOptions,
    ZScoreOptions,
)
from yolo_gradsafe.config_base import Section

if TYPE_CHECKING:
    from yolo_gradsafe.clipping.base import Clipper

__all__ = ["ClipOptions", "RuleOptions"]


class RuleOptions(Section):
    """One clipping rule and its settings."""

    mode: str = Field(
        default="norm",
        json_schema_extra={"examples": [*mode_names()]},
        description="(str) clipping rule: norm (scale all gradients when their global L2 norm is over max_norm), value "
        "(clamp every element), agc (each unit by its weight norm), percentile (AutoClip), zscore (ZClip), adagc "
        "(each tensor by its own past), auto (median and MAD of recent log norms), none (measure only), or a name "
        "given to yolo_gradsafe.clipping.register",
    )
    max_norm: float = Field(
        default=10.0,
        gt=0,
        description="(float) > 0, L2 norm of the unscaled gradients of one optimizer step above which they are scaled "
        "down; 10.0 is the value that stock Ultralytics hard-codes. In percentile, zscore, auto and adagc it holds "
        "during warmup_steps only",
    )
    warmup_steps: int = Field(
        default=100,
        ge=0,
        description="(int) >= 0, optimizer steps during which percentile, zscore, auto and adagc clip by max_norm as "
        "stock does and only collect norms; 100 is the shortest warm-up of Ultralytics",
    )
    patience: int = Field(
        default=20,
        ge=2,
        description="(int) >= 2, outliers on one side within twice as many optimizer steps after which percentile, "
        "zscore, auto and adagc take them for the new level (end of warm-up, close_mosaic) and start again from them",
    )
    ceiling: float | None = Field(
        default=None,
        gt=0,
        description="(float) > 0 or null, norm that no threshold of percentile, zscore or auto exceeds after the "
        "warm-up; null, because a level that stays is legitimate more often than not",
    )
    value: ValueOptions = Field(default_factory=ValueOptions, description="Mode value: elementwise clamp")
    agc: AGCOptions = Field(
        default_factory=AGCOptions, description="Mode agc: adaptive gradient clipping, arXiv 2102.06171"
    )
    percentile: PercentileOptions = Field(
        default_factory=PercentileOptions, description="Mode percentile: AutoClip, arXiv 2007.14469"
    )
    zscore: ZScoreOptions = Field(default_factory=ZScoreOptions, description="Mode zscore: ZClip, arXiv 2504.02507")
    adagc: AdaGCOptions = Field(default_factory=AdaGCOptions, description="Mode adagc: AdaGC, arXiv 2502.11034")
    auto: AutoOptions = Field(default_factory=AutoOptions, description="Mode auto: median and MAD of log norms")
    options: dict[str, Any] = Field(
        default={}, description="(dict) keywords for the constructor of a registered rule; for no other mode"
    )

    _rule: type[Clipper] | None = PrivateAttr(default=None)

    @field_validator("mode")
    @classmethod
    def _known(cls, mode: str) -> str:
        if mode not in mode_names():
            expected = ", ".join(f"'{name}'" for name in mode_names())
            raise PydanticCustomError("clip_mode", "Input should be one of {expected}", {"expected": expected})
        return mode

    def model_post_init(self, context: Any) -> None:
        """Keep the registered class with the options, so that it is pickled with them."""
        self._rule = registered(self.mode)

    @property
    def rule(self) -> type[Clipper] | None:
        """The class that a user registered under the mode; None for a built-in mode."""
        return self._rule


class ClipOptions(RuleOptions):
    """How gradients that are too large are made smaller."""

    per_image: bool = Field(
        default=False,
        description="(bool) divide norms by the images of the optimizer step before the rule sees them; max_norm, "
        "limit, clip_factor and ceiling are then per image, and one setting means the same at any batch size and "
        "accumulation, because Ultralytics sums its loss over the batch",
    )
    stages: dict[str, RuleOptions] = Field(
        default={},
        description="(dict) rules for parts of the model, clipped apart from the rest: {stage or glob over parameter "
        "names: {option of clip: value}}, what is not given is inherited; the first match wins. 'head' matches "
        "'head.box' too",
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
