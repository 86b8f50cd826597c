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

__all__ = [
    "SAID_BY_STEP",
    "SCHEMA_VERSION",
    "Cause",
    "Finding",
    "Held",
    "Incident",
    "Kind",
    "LayerRow",
    "Learned",
    "Place",
    "Remedy",
    "RunInfo",
    "RunPaths",
    "Shortfall",
    "StepRow",
    "Stock",
    "Verdict",
    "to_json",
]

SCHEMA_VERSION = 2
"""2: an incident's ``cause`` is a word of ``Cause``; it was data, precision, weights or transient."""


class Word(str, Enum):
    """A word of the records: the same in every file, and equal to its text."""

    def __str__(self) -> str:
        return str(self.value)


class Verdict(Word):
    """What is said of an optimizer step."""

    OK = "ok"
    CLIPPED = "clipped"
    SPIKE = "spike"
    AMP_OVERFLOW = "amp_overflow"
    BAD_BATCH = "bad_batch"
    POISONED = "poisoned"
    DIVERGING = "diverging"
    STALLED = "stalled"

    @property
    def bad(self) -> bool:
        """Whether the step needs a remedy."""
        return self in (Verdict.BAD_BATCH, Verdict.POISONED, Verdict.DIVERGING)


class Kind(Word):
    """What an incident is about."""

    BAD_BATCH = "bad_batch"
    """The verdict: a batch whose loss or gradients are not finite."""
    POISONED = "poisoned"
    """The verdict: weights, statistics or optimizer state are not finite."""
    DIVERGING = "diverging"
    """The verdict: the loss is far above its usual range, and trusted weights give a lower one."""
    STALLED = "stalled"
    """The verdict: the gradients of a stage have vanished."""
    NORM_OVERFLOW = "norm_overflow"
    """The gradients are finite and their norm overflows fp32."""
    ISOLATED = "isolated"
    """A micro-batch was taken out of its accumulation window."""
    QUARANTINE = "quarantine"
    """An image is left out of later batches."""
    HEALED = "healed"
    """Values that were not finite or far too large were replaced with those of a snapshot."""
    ROLLBACK = "rollback"
    """Training was rolled back to a snapshot."""
    LR_BACKOFF = "lr_backoff"
    """The learning rate was lowered."""
    LR_RAMP = "lr_ramp"
    """A lowered learning rate was raised again."""
    PRECISION = "precision"
    """Training or validation continues in another precision."""
    STOP = "stop"
    """Training was ended: a limit of the recovery was reached."""
    NO_SNAPSHOTS = "no_snapshots"
    """There is not enough memory for snapshots."""
    VALIDATION = "validation"
    """A validation is not finite, also with trusted weights."""
    BATCHNORM_LAG = "batchnorm_lag"
    """A validation loss is absurd, and that of training is fine: batch-norm statistics lag behind the weights."""
    INTERNAL_ERROR = "internal_error"
    """A fault of the plugin itself."""
    NATIVE_RECOVERY = "native_recovery"
    """Ultralytics repeated an epoch."""
    OBSERVE_ONLY = "observe_only"
    """An unknown version of Ultralytics: the guard only observes."""


class Cause(Word):
    """Where a bad batch came from, by experiment."""

    IMAGE = "image"
    """The file itself, read again, holds NaN or Inf, or cannot be read."""
    LABEL = "label"
    """A label is not finite, or impossible."""
    PREPROCESSING = "preprocessing"
    """The file is fine; a transform or the trainer's ``preprocess_batch`` made it NaN or Inf."""
    LOSS = "loss"
    """All outputs of the model are finite; a loss term, or its gradient, is not."""
    PRECISION = "precision"
    """The batch fails in fp16 or bf16, not in fp32."""
    ACTIVATIONS = "activations"
    """The input of a module is finite, but its output or gradient is not, also in fp32."""
    WEIGHTS = "weights"
    """The weights are not finite, or give a several times higher loss than trusted ones, also on other images."""
    LEARNING_RATE = "learning_rate"
    """The steps changed the weights too much: the learning rate is too high for this model."""
    EVERY_BATCH = "every_batch"
    """All batches fail from the first step on: training cannot succeed."""
    OUTLIER = "outlier"
    """Everything is finite, but the loss is far above its usual range."""
    TRANSIENT = "transient"
    """The same batch does not fail again."""
    UNKNOWN = "unknown"
    """The cause could not be found."""


class Place(Word):
    """Where an incident was seen."""

    NONE = ""
    LOSS = "loss"
    GRADIENTS = "gradients"
    WINDOW = "window"
    """An earlier micro-batch of the accumulation window, or another rank."""
    OPEN_WINDOW = "open_window"
    """A micro-batch at the end of an epoch that no optimizer step had used yet."""
    BATCHNORM = "batchnorm"
    STATE = "state"
    """Weights, EMA, buffers or optimizer state."""
    SNAPSHOT = "snapshot"
    EPOCH_END = "epoch_end"
    """The check of the whole state before validation."""
    VALIDATION = "validation"
    RANKS = "ranks"
    """The ranks of a distributed training, compared with each other."""


class Remedy(Word):
    """What was done about an incident."""

    SKIPPED = "skipped"
    """The optimizer was not called."""
    STATISTICS_RESTORED = "statistics_restored"
    """Batch-norm statistics were restored."""
    REPAIRED = "repaired"
    """Values that were not finite were replaced with those of a snapshot."""
    ROLLED_BACK = "rolled_back"
    LR_LOWERED = "lr_lowered"
    LR_RESTORED = "lr_restored"
    BATCHNORM_MOMENTUM_RAISED = "batchnorm_momentum_raised"
    """Batch-norm statistics follow the weights faster."""
    PRECISION_RAISED = "precision_raised"
    PRECISION_LOWERED = "precision_lowered"
    STOPPED = "stopped"
    MICRO_BATCH_DROPPED = "micro_batch_dropped"
    QUARANTINED = "quarantined"
    CLIPPED = "clipped"
    """Clipped by the correct norm."""
    RANKS_SYNCED = "ranks_synced"
    """All ranks took over the state of one."""
    LEFT_TO_ULTRALYTICS = "left_to_ultralytics"
    OBSERVED = "observed"
    """Nothing: recovery is off."""


SAID_BY_STEP = {Kind.ROLLBACK: Remedy.ROLLED_BACK, Kind.LR_BACKOFF: Remedy.LR_LOWERED}
"""Kinds of incidents of which that of a bad step says everything already, where it has the remedy."""


class Held(Word):
    """Whether a remedy helped."""

    CONFIRMED = "confirmed"
    """Enough healthy steps followed."""
    AGAIN = "again"
    """The same happened again soon."""
    OPEN = "open"
    """Too few steps have followed to tell."""


class Stock(Word):
    """What Ultralytics alone would have done, as its trainer is written."""

    NAN_WEIGHTS = "nan_weights"
    """The step is taken, which makes the weights NaN; the epoch is redone from ``last.pt``, three times at most."""
    NAN_WEIGHTS_FIRST_EPOCH = "nan_weights_first_epoch"
    """The same in the first epoch, which cannot be redone: there is no ``last.pt``."""
    SKIPPED = "skipped"
    """GradScaler skips the step."""
    SKIPPED_NAN_STATISTICS = "skipped_nan_statistics"
    """GradScaler skips the step; batch-norm statistics have become NaN in the forward pass."""
    KEPT_STATE = "kept_state"
    """Training goes on with what is not finite, until the loss is NaN."""
    KEPT_STATISTICS = "kept_statistics"
    """Batch-norm statistics stay as they are, and validation fails."""
    WENT_ON = "went_on"
    """Training goes on with these weights and this learning rate."""
    ZERO_GRADIENTS = "zero_gradients"
    """Clipping by an infinite norm makes all gradients 0."""
    UNKNOWN = "unknown"


class Learned(Word):
    """Whether the model of a run learned."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Shortfall(Word):
    """Why a run did not learn, or why that is not known."""

    RATE_TOO_HIGH = "rate_too_high"
    """The learning rate changes the weights by a large part of their size in one step."""
    RATE_TOO_LOW = "rate_too_low"
    """All steps together moved the weights by less than a hundredth of their size."""
    STEPS_SKIPPED = "steps_skipped"
    """Most steps were skipped; the incidents say why."""
    TOO_FEW_STEPS = "too_few_steps"
    """Training ended before its warm-up was over, or took too few optimizer steps."""
    LOSS_ZERO = "loss_zero"
    """A loss item was exactly 0 in all steps, although there were objects."""
    BRANCH_SILENT = "branch_silent"
    """A branch of the model had almost no gradient from the first step on."""
    LAYER_DIED = "layer_died"
    """Layers had a gradient at first, and none later."""
    VALIDATION_LOSS = "validation_loss"
    """A validation loss is not finite, exactly 0 or absurdly large while the training loss is neither."""
    CONSTANT_PREDICTOR = "constant_predictor"
    """The model predicts the same for every image."""
    OVERFITTING = "overfitting"
    """The training loss fell, but the validation loss was never lower than in the first epoch."""
    NEVER_ROSE = "never_rose"
    """Accuracy stayed at 0, or was never above that of the first epoch."""
    COLLAPSED = "collapsed"
    """Accuracy rose, then fell to almost 0 and stayed there."""
    FELL = "fell"
    """Accuracy was good after the first epoch, never better, and lower at the end."""
    TOO_SHORT = "too_short"
    """Unknown: there were too few epochs to tell."""
    NOT_VALIDATED = "not_validated"
    """Unknown: there was no validation, or no object in its images."""
    GOOD_FROM_THE_START = "good_from_the_start"
    """Unknown: accuracy was already as good after the first epoch, and stayed so."""


@dataclass(frozen=True)
class Finding:
    """A reason for the verdict on learning, with its numbers; what a number means depends on the reason."""

    reason: Shortfall
    names: tuple[str, ...] = ()
    """Loss items, stages or layers that it is about."""
    value: float = math.nan
    """What was recorded."""
    limit: float = math.nan
    """What it is held against."""
    epoch: int = 0
    """Epoch since which, or up to which, it was so; 0 where that says nothing."""


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
    """Optimizer step of the run, from 1; a resumed run continues to count."""
    batch: int
    """Batch of the epoch, from 1, after which the step was taken: the last of its accumulation window."""
    lr: float
    """Learning rate of the first parameter group as it was used."""
    lr_factor: float
    """Factor on the planned learning rate; 1 unless the guard lowered it."""
    loss: float
    """Loss of that batch as it was back-propagated: summed over the images, before AMP scaling; this rank's."""
    grad_norm: float
    """Global L2 norm of the unscaled gradients before clipping; nan or inf where they were not finite."""
    threshold: float
    """Norm above which the step was clipped; inf if clipping is off."""
    clip_scale: float
    """Factor that the gradients were multiplied with: 1 not clipped, 0 not applied."""
    amp_scale: float
    """Loss scale of the GradScaler; 1 without one."""
    verdict: str
    """The step's verdict."""
    update_ratio: float = math.nan
    """L2 norm of the change of the weights in the step before over that of the weights; nan when it is not known."""
    images: list[str] = field(default_factory=list)
    """Image files of the step, as a JSON list, when the step was bad; otherwise empty."""
    items: dict[str, float] = field(default_factory=dict)
    """The loss items by name, as Ultralytics logs them (``box_loss``, ``cls_loss``, ...): columns after ``loss``."""
    stages: dict[str, float] = field(default_factory=dict)
    """L2 norm of each stage's gradients (``norm/backbone``, ``norm/head.box``, ...): columns after ``grad_norm``;
    nan for a stage without any gradient, such as a frozen one."""

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
    """Something that needed a remedy, or a fault of our own: a line of ``incidents.jsonl``.

    ``message`` and ``action`` are for people and made of the other fields; programs read the fields.
    """

    kind: Kind
    epoch: int = 0
    """Epoch, from 1; 0 before the first."""
    step: int = 0
    """Optimizer step of the run, from 1."""
    batch: int = 0
    """Batch of the epoch, from 1."""
    message: str = ""
    """One plain sentence: what was seen."""
    action: str = ""
    """One plain sentence: what was done."""
    place: Place = Place.NONE
    remedies: tuple[Remedy, ...] = ()
    """What was done, in order."""
    loss: float = math.nan
    items: dict[str, float] = field(default_factory=dict)
    grad_norm: float = math.nan
    amp_scale: float = 1.0
    tensors: list[str] = field(default_factory=list)
    """Parameters whose gradient was not finite before clipping, or tensors that were repaired; at most ten."""
    tensor_count: int = 0
    """How many there were in total."""
    stages: list[str] = field(default_factory=list)
    """Stages whose gradients have vanished."""
    images: list[str] = field(default_factory=list)
    """Image files that caused it, or all of the batch if that is not known; with mosaic or mixup each is the first of
    several combined images."""
    cause: str = ""
    """What made a batch bad, a ``Cause``; empty if it was not investigated."""
    culprit: str = ""
    """What the investigation found, one plain sentence; empty if there was none."""
    layer: str = ""
    """First module whose output, or the gradient of it, was not finite, or empty."""
    term: str = ""
    """First loss term that was not finite, or empty."""
    operation: str = ""
    """First operation that turned finite values into NaN or Inf, with its line and input, a sentence; or empty."""
    source: str = ""
    """Where that line is, ``FILE:LINE``; or empty."""
    source_text: str = ""
    """Its text; or empty."""
    backward: bool = False
    """Whether the loss was finite and a gradient was not."""
    magnitude: float = math.nan
    """Largest finite magnitude in ``layer``."""
    failed_in: str = ""
    """Precision of the pass that failed: ``fp32``, ``fp16`` or ``bf16``; or empty."""
    composite: list[str] = field(default_factory=list)
    """How images may have been combined, such as ``mosaic``."""
    proven: bool = False
    """Whether each of ``images`` also fails alone in full precision."""
    stage: str = ""
    """What made an image NaN although its file is fine: ``transforms`` or ``preprocess_batch``; or empty."""
    repeats: int = 0
    """Number of faults so far, this one included, that did not happen again with the same batch."""
    picture: str = ""
    """Contact sheet of the batch, relative to the run's folder, or empty."""
    steps_lost: int = 0
    """Optimizer steps that were lost: skipped, or undone by a rollback."""
    repaired: int = 0
    """Tensors that were repaired."""
    snapshot: int = -1
    """Step of the snapshot that was used; -1 for none."""
    undone: int = 0
    """Optimizer steps that a rollback took back."""
    lr_factor: float = 1.0
    """Factor on the planned learning rate from here on."""
    update_ratio: float = math.nan
    """L2 norm of the change of the weights in the step before over that of the weights, where it was too large."""
    precision: str = ""
    """Precision from here on, if it changed."""
    precision_before: str = ""
    """Precision before, if it changed."""
    rank: int = -1
    """Rank on which it happened, if there are several; -1 for none."""
    budget: str = ""
    """Option whose limit was reached: ``max_skips`` or ``max_rollbacks``; or empty."""
    count: int = 0
    """What was counted toward that limit."""
    detail: str = ""
    """Other text: the message of an error, a difference, an amount."""
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
    batches: int = 0
    """Batches an epoch, on this rank; 0 when unknown."""
    warmup_batches: int = 0
    """Batches over which the learning rate warms up; 0 without a warm-up, or when unknown."""
    objects: int = -1
    """Labelled objects of the training set; -1 when unknown."""
    validation_objects: int = -1
    """Labelled objects of the validation set; -1 when unknown."""
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
