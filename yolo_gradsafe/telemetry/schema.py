"""The words and the files of a run's record. Whoever writes or reads them starts here.

Numbers are those of the run as it happened: norms are L2 norms of unscaled gradients, before clipping; epochs, steps
and batches count from 1 as Ultralytics shows them; an epoch that Ultralytics repeats keeps its number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

__all__ = ["SCHEMA_VERSION", "Incident", "LayerRow", "RunInfo", "RunPaths", "StepRow", "Verdict", "to_json"]

SCHEMA_VERSION = 1


class Verdict(str, Enum):
    """What is said of an optimizer step; the same words in every file."""

    OK = "ok"
    CLIPPED = "clipped"
    SPIKE = "spike"
    AMP_OVERFLOW = "amp_overflow"
    BAD_BATCH = "bad_batch"
    POISONED = "poisoned"
    DIVERGING = "diverging"
    STALLED = "stalled"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class RunPaths:
    """Where the files of a run lie, given the folder that Ultralytics calls ``save_dir``."""

    run: Path

    @property
    def folder(self) -> Path:
        """The folder of the records."""
        return self.run / "stability"

    @property
    def steps(self) -> Path:
        """One row an optimizer step."""
        return self.folder / "steps.csv"

    @property
    def layers(self) -> Path:
        """One row a layer and epoch."""
        return self.folder / "layers.csv"

    @property
    def incidents(self) -> Path:
        """One JSON object a line, one line an incident."""
        return self.folder / "incidents.jsonl"

    @property
    def info(self) -> Path:
        """What was trained, where, with which versions, and how it ended."""
        return self.folder / "run.json"

    @property
    def options(self) -> Path:
        """The resolved options; a valid configuration file."""
        return self.folder / "options.yaml"

    @property
    def state(self) -> Path:
        """What a resumed run goes on from: what was learnt up to the end of each of the last two epochs."""
        return self.folder / "state.json"

    @property
    def health(self) -> Path:
        """What the check of the data before training found."""
        return self.folder / "health.json"

    @property
    def quarantine(self) -> Path:
        """The images that were left out, one path a line."""
        return self.folder / "quarantine.txt"

    @property
    def reports(self) -> list[Path]:
        """What is made from the records, for people and for programs."""
        return [self.run / f"stability.{end}" for end in ("json", "yaml", "html", "png")]

    @property
    def summary(self) -> Path:
        """The summary for programs."""
        return self.run / "stability.json"

    @property
    def plot(self) -> Path:
        """The summary for the eye."""
        return self.run / "stability.png"


@dataclass(frozen=True)
class StepRow:
    """One optimizer step, as a row of ``steps.csv``."""

    epoch: int
    """Epoch, from 1."""
    step: int
    """Optimizer step of the run, from 1; a resumed run goes on counting."""
    batch: int
    """Batch of the epoch, from 1, after which the step was taken: the last of its accumulation window."""
    lr: float
    """Learning rate of the first parameter group as it was used."""
    lr_factor: float
    """Factor on the host's learning rate that this holds; 1 unless it was lowered after a divergence."""
    loss: float
    """Loss of that batch as it was back-propagated: summed over the images, before AMP scaling; this rank's."""
    grad_norm: float
    """Global L2 norm of the unscaled gradients before clipping; nan or inf where they were not finite."""
    threshold: float
    """Norm above which the step was clipped; inf where nothing clips."""
    clip_scale: float
    """Factor that the gradients were multiplied with: 1 not clipped, 0 not applied."""
    amp_scale: float
    """Loss scale of the GradScaler; 1 without one."""
    verdict: str
    """The step's verdict."""
    images: list[str] = field(default_factory=list)
    """Image files of the step, as a JSON list, when the step was bad; otherwise empty."""
    items: dict[str, float] = field(default_factory=dict)
    """The loss items by name, as Ultralytics logs them (``box_loss``, ``cls_loss``, ...): columns after ``loss``."""
    stages: dict[str, float] = field(default_factory=dict)
    """L2 norm of each stage's gradients (``norm/backbone``, ``norm/head.box``, ...): columns after ``grad_norm``."""

    @staticmethod
    def fixed_columns() -> list[str]:
        """Return the columns that every file has, whatever the task and the model."""
        return [f.name for f in fields(StepRow) if f.name not in {"items", "stages"}]

    def columns(self) -> list[str]:
        """Return the header of a file that starts with this row."""
        names = self.fixed_columns()
        items, stages = names.index("loss") + 1, names.index("grad_norm") + 1
        return [*names[:items], *self.items, *names[items:stages], *self.stages, *names[stages:]]


@dataclass(frozen=True)
class LayerRow:
    """One layer in one epoch, as a row of ``layers.csv``: quantiles over the epoch's healthy optimizer steps."""

    epoch: int
    """Epoch, from 1."""
    layer: str
    """Module: ``model.N``, in the head ``model.N.branch``."""
    stage: str
    """Its stage: ``backbone``, ``neck``, ``head.box``, ..."""
    steps: int
    """Steps that the quantiles are over."""
    norm_p05: float
    """5 % quantile of the L2 norm of the layer's unscaled gradients before clipping."""
    norm_median: float
    """Median of it."""
    norm_p95: float
    """95 % quantile of it."""
    norm_max: float
    """Largest of it."""
    share: float
    """Share of the layer in the sum of all squared norms of the epoch, 0 to 1."""
    update_ratio: float
    """L2 norm of a step's change of the weights over that of the weights, median of the samples; nan without one."""


@dataclass(frozen=True)
class Incident:
    """Something that needed a remedy, or a fault of our own: a line of ``incidents.jsonl``."""

    kind: str
    """A verdict; a remedy (``healed``, ``rollback``, ``lr_backoff``, ``lr_ramp``, ``precision``, ``isolated``,
    ``quarantine``, ``stop``, ``no_snapshots``); ``norm_overflow``; ``internal_error`` (a fault of the plugin);
    ``native_recovery`` (Ultralytics redid an epoch); or ``observe_only`` (a version that is not known)."""
    epoch: int
    step: int
    batch: int
    message: str
    """One plain sentence: what was seen."""
    action: str
    """One plain sentence: what was done."""
    loss: float = math.nan
    items: dict[str, float] = field(default_factory=dict)
    grad_norm: float = math.nan
    amp_scale: float = 1.0
    tensors: list[str] = field(default_factory=list)
    """Parameters whose gradient was not finite before clipping, in the model's order, at most ten."""
    images: list[str] = field(default_factory=list)
    """Image files to blame, or of the whole batch where that is not known; under mosaic or mixup each is the first of
    several that were composed."""
    cause: str = ""
    """Where a bad batch came from: ``data``, ``precision``, ``weights``, ``transient``; empty when unknown."""
    culprit: str = ""
    """What was found to be the matter, one plain sentence; empty when it was not looked into."""
    layer: str = ""
    """First module whose output was not finite, or empty."""
    term: str = ""
    """First loss term that was not finite, or empty."""
    picture: str = ""
    """Contact sheet of the batch, relative to the run's folder, or empty."""
    steps_lost: int = 0
    """Optimizer steps that were given up: skipped, or taken back by a rollback."""
    time: str = ""
    """When, ISO 8601 with the time zone."""


@dataclass
class RunInfo:
    """``run.json``: the run that the records belong to."""

    schema_version: int = SCHEMA_VERSION
    task: str = ""
    model: str = ""
    optimizer: str = ""
    amp: str = ""
    """Precision of the training: ``fp32``, ``fp16`` (with a GradScaler) or ``bf16``; empty when unknown."""
    batch: int = 0
    epochs: int = 0
    device: str = ""
    started: str = ""
    finished: str = ""
    """When it ended; empty while it runs and after a crash."""
    error: str = ""
    """The exception that ended the run, or empty."""
    environment: dict[str, str] = field(default_factory=dict)
    """Versions: python, torch, ultralytics, yolo_gradsafe."""


def to_json(value: Any) -> Any:
    """Make a value fit for strict JSON: non-finite numbers become the strings ``nan``, ``inf`` and ``-inf``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value
