"""How a clipper is built from the options."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from yolo_gradsafe.clipping.adagc import AdaGCClipper
from yolo_gradsafe.clipping.adaptive import AdaptiveClipper, Baseline
from yolo_gradsafe.clipping.agc import AGCClipper
from yolo_gradsafe.clipping.auto import AutoBaseline
from yolo_gradsafe.clipping.base import Clipper
from yolo_gradsafe.clipping.match import select
from yolo_gradsafe.clipping.none import NoClipper
from yolo_gradsafe.clipping.norm import NormClipper
from yolo_gradsafe.clipping.options import ClipOptions, RuleOptions
from yolo_gradsafe.clipping.per_image import PerImageClipper
from yolo_gradsafe.clipping.percentile import PercentileBaseline
from yolo_gradsafe.clipping.staged import StagedClipper
from yolo_gradsafe.clipping.value import ValueClipper
from yolo_gradsafe.clipping.zscore import ZScoreBaseline
from yolo_gradsafe.config_base import ConfigError

__all__ = ["build"]

Stages = Mapping[str, str]


def build(options: ClipOptions, stages: Stages | None = None) -> Clipper:
    """Build the clipper that the options describe.

    Args:
        options: What to clip, and how.
        stages: Stage of each parameter (``backbone``, ``neck``, ``head.box``), by the parameter's name; None when it
            is not known, and then no stage and no glob matches.

    Raises:
        ConfigError: A stage or glob that matches no parameter, or none that an earlier one has left over.
    """
    stages = stages or {}
    clipper = _build_rule(options, stages)
    if options.stages:
        clipper = StagedClipper(
            clipper,
            {key: _build_rule(options.rule_for(key), stages) for key in options.stages},
            _part_of(options, stages),
        )
    return PerImageClipper(clipper) if options.per_image else clipper


def _build_rule(options: RuleOptions, stages: Stages) -> Clipper:
    if options.rule is not None:
        return options.rule(**options.options)
    return _BUILDERS[options.mode](options, stages)


def _part_of(options: ClipOptions, stages: Stages) -> dict[str, str]:
    """Give each parameter to the first override that matches it."""
    part_of: dict[str, str] = {}
    for key in options.stages:
        matched = select(key, stages, "clip.stages")
        free = [name for name in matched if name not in part_of]
        if not free:
            earlier = ", ".join(dict.fromkeys(f"'{part_of[name]}'" for name in matched))
            raise ConfigError(
                f"clip.stages: '{key}' is left nothing by {earlier}; the first match wins, so put it first."
            )
        part_of |= dict.fromkeys(free, key)
    return part_of


def _agc(options: RuleOptions, stages: Stages) -> Clipper:
    agc = options.agc
    excluded = [name for pattern in agc.exclude for name in select(pattern, stages, "clip.agc.exclude")]
    return AGCClipper(agc.clip_factor, agc.eps, excluded)


def _adagc(options: RuleOptions, _: Stages) -> Clipper:
    adagc = options.adagc
    return AdaGCClipper(options.max_norm, options.warmup_steps, options.patience, adagc.factor, adagc.beta, adagc.shift)


def _adaptive(baseline: Callable[[RuleOptions], Baseline]) -> Callable[[RuleOptions, Stages], Clipper]:
    """Return the builder of an adaptive rule."""

    def build_it(options: RuleOptions, _: Stages) -> Clipper:
        shared = options.max_norm, options.warmup_steps, options.patience, options.ceiling
        return AdaptiveClipper(baseline(options), *shared)

    return build_it


_BUILDERS: dict[str, Callable[[RuleOptions, Stages], Clipper]] = {
    "norm": lambda options, _: NormClipper(options.max_norm),
    "value": lambda options, _: ValueClipper(options.value.limit),
    "agc": _agc,
    "percentile": _adaptive(lambda o: PercentileBaseline(o.percentile.percentile, o.percentile.window)),
    "zscore": _adaptive(lambda o: ZScoreBaseline(o.zscore.z, o.zscore.alpha, o.zscore.sigma_floor)),
    "adagc": _adagc,
    "auto": _adaptive(lambda o: AutoBaseline(o.auto.deviations, o.auto.window, o.auto.sigma_floor)),
    "none": lambda options, _: NoClipper(),
}
"""One builder for each name in ``modes.BUILT_IN``."""
