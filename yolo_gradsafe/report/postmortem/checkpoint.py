"""What a checkpoint holds, as plain facts: the rules of the post-mortem read these and no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BatchNorm", "Checkpoint", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """A tensor that is not as training leaves one."""

    name: str
    elements: int
    """How many it has, and"""
    count: int
    """how many of them are the matter."""


@dataclass(frozen=True)
class BatchNorm:
    """Running statistics of a batch-norm layer that no image explains."""

    name: str
    mean: float
    """Largest magnitude of its running means."""
    variance: float
    """Largest of its running variances."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of Ultralytics, looked through tensor by tensor."""

    file: str
    """Relative to the run's folder."""
    error: str = ""
    """Why it could not be read; all else is empty then."""
    epoch: int = 0
    """Epoch that it was saved after, from 1; 0 where training has finished, which strips it."""
    stripped: bool = False
    """Whether training has finished with it: optimizer and epoch are taken out at the end."""
    version: str = ""
    """Version of Ultralytics that wrote it."""
    model: str = ""
    """YAML file that the model was built from, or empty."""
    tensors: int = 0
    """Tensors of the model with numbers that may be fractions."""
    nonfinite: list[Tensor] = field(default_factory=list)
    """Those with NaN or Inf."""
    clamped: list[Tensor] = field(default_factory=list)
    """Those with ±65504, fp16's largest number: Ultralytics writes that for Inf."""
    zero: list[Tensor] = field(default_factory=list)
    """Weights and running variances that are 0 throughout: Ultralytics writes that for NaN."""
    batchnorm: list[BatchNorm] = field(default_factory=list)
    """Batch-norm layers whose statistics are off."""
    optimizer_nonfinite: int = 0
    """Tensors of the optimizer's state with NaN or Inf."""
    amp_scale: float | None = None
    """GradScaler's loss scale; None where there is none on record."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """What the validation of that epoch gave."""

    @property
    def damaged(self) -> bool:
        """Whether the model in it cannot be what training was to make."""
        return bool(self.nonfinite or self.clamped or self.zero)
