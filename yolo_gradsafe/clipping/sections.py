"""The options that belong to one clipping rule each."""

from __future__ import annotations

from pydantic import Field

from yolo_gradsafe.config_base import Section

__all__ = ["AGCOptions", "AdaGCOptions", "AutoOptions", "PercentileOptions", "ValueOptions", "ZScoreOptions"]


class ValueOptions(Section):
    """Elementwise clamp."""

    limit: float = Field(
        default=1.0,
        gt=0,
        description="(float) > 0, magnitude to which every gradient element is clamped; 1.0 is Detectron2's value",
    )


class AGCOptions(Section):
    """Adaptive gradient clipping, unit by unit."""

    clip_factor: float = Field(
        default=0.01,
        gt=0,
        description="(float) > 0, largest ratio of a unit's gradient norm to its weight norm; 0.01 is the paper's, for "
        "gradients that are means over the batch. Ultralytics sums over the batch: set clip.per_image as well",
    )
    eps: float = Field(
        default=1e-3,
        gt=0,
        description="(float) > 0, smallest weight norm that counts, so that a zero-initialised unit can train; the "
        "paper's",
    )
    exclude: list[str] = Field(
        default=["head"],
        description="(list) stage names or globs over parameter names that are left alone; the head, because the paper "
        "found that the final classifier must not be clipped",
    )


class PercentileOptions(Section):
    """AutoClip."""

    percentile: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="(float) 0 to 100, percentile of the recent norms that is the threshold; 10 is the paper's and "
        "scales nine steps in ten, 90 to 99 touches only the large ones",
    )
    window: int = Field(
        default=1000,
        ge=2,
        description="(int) >= 2, optimizer steps whose norms are remembered; the paper remembers all and so never "
        "follows a change late in training",
    )


class ZScoreOptions(Section):
    """ZClip."""

    z: float = Field(
        default=2.5,
        gt=0,
        description="(float) > 0, standard deviations above the mean from which a norm is an outlier; the paper's",
    )
    alpha: float = Field(
        default=0.97,
        gt=0,
        lt=1,
        description="(float) 0 to 1, share of the past in the moving mean and variance of an optimizer step; the "
        "paper's",
    )
    sigma_floor: float = Field(
        default=0.05,
        ge=0,
        description="(float) >= 0, smallest standard deviation as a share of the mean; without it (0, the paper) the "
        "variance shrinks on the clipped values it is fed until every step is an outlier",
    )


class AdaGCOptions(Section):
    """AdaGC."""

    factor: float = Field(
        default=1.05,
        gt=1,
        description="(float) > 1, times a tensor's own moving norm to which its gradient is clipped; the paper's",
    )
    beta: float = Field(
        default=0.98,
        gt=0,
        lt=1,
        description="(float) 0 to 1, share of the past in the moving norm of a tensor, of an optimizer step; the "
        "paper's",
    )
    shift: float = Field(
        default=2.0,
        gt=1,
        description="(float) > 1, times (or part of) the moving norm beyond which a raw norm counts toward "
        "clip.patience; the paper has none and needs over 1000 steps to follow a threefold rise",
    )


class AutoOptions(Section):
    """The robust rule: median and MAD of log norms."""

    deviations: float = Field(
        default=3.0,
        gt=0,
        description="(float) > 0, robust standard deviations of the log norm above its median that are the threshold; "
        "3 leaves a lognormal run alone in 999 steps of 1000",
    )
    window: int = Field(
        default=200,
        ge=2,
        description="(int) >= 2, optimizer steps whose norms are remembered; outliers weigh nothing up to half of it",
    )
    sigma_floor: float = Field(
        default=0.1,
        gt=0,
        description="(float) > 0, smallest standard deviation of the log norm, 0.1 is about 10 %: norms that hardly "
        "vary are not clipped for varying a little",
    )
