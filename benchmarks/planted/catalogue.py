"""All faults that are planted in one pass; ``trainings`` has those that take a training."""

from __future__ import annotations

from benchmarks.planted import blocks, data, healthy, losses, numbers

__all__ = ["FAULTS"]

FAULTS = [*losses.FAULTS, *blocks.FAULTS, *data.FAULTS, *numbers.FAULTS, *healthy.FAULTS]
