"""The parts of a summary, as they stand in ``stability.json``.

Conventions: norms are L2 norms of unscaled gradients before clipping; epochs, steps and batches count from 1; shares go
from 0 to 1; a number that does not exist is null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from yolo_gradsafe.telemetry.schema import SCHEMA_VERSION, to_json

__all__ = [
    "Accuracy",
    "Advice",
    "Amp",
    "Earlier",
    "Epoch",
    "GradNorm",
    "IncidentEntry",
    "LoweredRate",
    "Number",
    "Outcome",
    "Part",
    "Reason",
    "ReportError",
    "Run",
    "Spike",
    "SpikeKind",
    "Steps",
]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Annotated[Finite | Literal["nan", "inf", "-inf"], BeforeValidator(to_json)]
"""A number that may be non-finite, and is a word then: JSON has no NaN, and a NaN would not equal itself."""

SpikeKind = Literal["loss", "gradient norm", "validation loss"]


class ReportError(ValueError):
    """There is nothing to report on, or not what was expected; the message names the folder or file."""


class Part(BaseModel):
    """A value of the summary; fields that a later version added are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Run(Part):
    """What was trained, where, with which versions, and how it ended."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of the record that this was read from")
    task: str = Field(default="", description="Ultralytics' task: detect, pose, ...")
    model: str = Field(default="", description="model that was trained, as it was named to Ultralytics")
    optimizer: str = Field(default="", description="name of the optimizer's class")
    amp: str = Field(default="", description="precision: fp32, fp16 (with a GradScaler) or bf16; empty when unknown")
    batch: int = Field(default=0, description="images a batch")
    epochs: int = Field(default=0, description="epochs asked for")
    device: str = Field(default="", description="device of the training")
    batches: int = Field(default=0, description="batches an epoch, on rank 0; 0 when unknown")
    warmup_batches: int = Field(default=0, description="batches over which the learning rate warms up")
    objects: int = Field(default=-1, description="labelled objects of the training set; -1 when unknown")
    validation_objects: int = Field(default=-1, description="labelled objects of the validation set; -1 when unknown")
    started: str = Field(default="", description="start, ISO 8601 with the time zone")
    finished: str = Field(
        default="", description="end, ISO 8601 with the time zone; empty while it runs and after a crash"
    )
    error: str = Field(default="", description="exception that ended the run, or empty")
    environment: dict[str, str] = Field(default_factory=dict, description="versions of the software, by name")


class Steps(Part):
    """Optimizer steps, counted: ``total`` is ``applied`` + ``skipped`` + the overflows under ``amp``."""

    total: int = Field(description="optimizer steps recorded")
    applied: int = Field(description="steps that changed the weights")
    skipped: int = Field(description="steps that GradSafe did not apply; GradScaler's own are under amp.overflows")
    undone: int = Field(
        default=0, description="applied steps that a rollback took back, each counted once however often that was"
    )
    clipped: int = Field(description="steps that were applied with smaller gradients")
    clipped_share: float = Field(description="clipped steps / applied steps, 0 to 1; 0 where no step was applied")
    verdicts: dict[str, int] = Field(description="steps by verdict, all verdicts, zeros included")


class GradNorm(Part):
    """Distribution of the gradient norm over the steps that were applied, finite norms only."""

    min: float = Field(description="smallest norm")
    median: float = Field(description="half of the steps had a smaller norm")
    p95: float = Field(description="95 % of the steps had a smaller norm")
    p99: float = Field(description="99 % of the steps had a smaller norm")
    max: float = Field(description="largest norm")


class Amp(Part):
    """The GradScaler's loss scale, a factor without a unit; all null without a GradScaler."""

    enabled: bool = Field(description="whether a GradScaler scaled the loss (fp16)")
    overflows: int = Field(description="steps that GradScaler skipped to find its scale; routine, not an incident")
    scale_first: float | None = Field(default=None, description="loss scale of the first step")
    scale_min: float | None = Field(default=None, description="smallest loss scale")
    scale_last: float | None = Field(default=None, description="loss scale of the last step")


class IncidentEntry(Part):
    """Something that needed a remedy, or a remedy: a line of ``stability/incidents.jsonl``."""

    kind: str = Field(
        description="a verdict; a remedy (healed, rollback, lr_backoff, lr_ramp, precision, isolated, quarantine, "
        "stop, no_snapshots); norm_overflow; validation (not finite with any weights); "
        "batchnorm_lag (statistics that could not follow the weights); internal_error (of GradSafe); "
        "native_recovery (Ultralytics' own); "
        "or observe_only (a version of Ultralytics that is not known)"
    )
    epoch: int = Field(description="epoch, from 1")
    step: int = Field(description="optimizer step of the run, from 1")
    batch: int = Field(description="batch of the epoch, from 1")
    message: str = Field(description="what was seen, a sentence made of the other fields")
    action: str = Field(description="what was done, a sentence made of the other fields")
    place: str = Field(
        default="",
        description="where it was seen: loss, gradients, window, open_window, batchnorm, state, snapshot, epoch_end, "
        "validation or ranks; or empty",
    )
    remedies: list[str] = Field(
        default_factory=list,
        description="what was done, in order: skipped, statistics_restored, repaired, rolled_back, lr_lowered, "
        "lr_restored, precision_raised, precision_lowered, stopped, micro_batch_dropped, quarantined, clipped, "
        "ranks_synced, left_to_ultralytics or observed",
    )
    loss: Number = Field(default="nan", description="loss of the batch, summed over the images, before AMP scaling")
    items: dict[str, Number] = Field(default_factory=dict, description="loss items by name, as Ultralytics logs them")
    grad_norm: Number = Field(default="nan", description="global norm before clipping")
    amp_scale: Number = Field(default=1.0, description="loss scale of the GradScaler, 1 without one")
    tensors: list[str] = Field(default_factory=list, description="first parameters with a non-finite gradient, by name")
    tensor_count: int = Field(default=0, description="how many tensors there were in all")
    stages: list[str] = Field(default_factory=list, description="stages whose gradients have vanished")
    images: list[str] = Field(default_factory=list, description="image files of the batch")
    time: str = Field(default="", description="when, ISO 8601 with the time zone")
    culprit: str = Field(default="", description="the sample that did it, a sentence; empty where none was found")
    layer: str = Field(default="", description="layer that went non-finite first, or empty")
    term: str = Field(default="", description="loss term that went non-finite first, or empty")
    operation: str = Field(
        default="",
        description="first operation that made NaN or Inf of finite values, its line and what it was fed, a sentence",
    )
    source: str = Field(default="", description="where that line is, FILE:LINE; or empty")
    source_text: str = Field(default="", description="text of that line; or empty")
    stage: str = Field(default="", description="what made an image NaN: transforms or preprocess_batch; or empty")
    magnitude: Number = Field(default="nan", description="largest finite magnitude in the layer")
    failed_in: str = Field(default="", description="precision of the pass that failed: fp32, fp16 or bf16; or empty")
    composite: list[str] = Field(default_factory=list, description="how images may have been composed of several")
    proven: bool = Field(default=False, description="whether each of the images fails by itself in full precision")
    backward: bool = Field(default=False, description="whether the loss was finite and a gradient was not")
    repeats: int = Field(default=0, description="faults so far that did not happen again with the same batch")
    cause: str = Field(
        default="",
        description="image, label, preprocessing, loss, precision, activations, weights, learning_rate, every_batch, "
        "outlier, transient or unknown; or empty. Records of version 1: data, precision, weights or transient",
    )
    picture: str = Field(default="", description="picture of the batch, relative to the run's folder, or empty")
    steps_lost: int = Field(default=0, description="optimizer steps that it cost")
    repaired: int = Field(default=0, description="tensors that were repaired")
    snapshot: int = Field(default=-1, description="step of the snapshot that was used; -1 for none")
    undone: int = Field(default=0, description="optimizer steps that a rollback took back")
    lr_factor: float = Field(default=1.0, description="factor on the learning rate from here on")
    update_ratio: Number = Field(
        default="nan", description="change of the weights in the step before over the weights, where it was too large"
    )
    precision: str = Field(default="", description="precision from here on, where it changed")
    precision_before: str = Field(default="", description="precision before, where it changed")
    rank: int = Field(default=-1, description="rank that knows best, where there are several; -1 for none")
    budget: str = Field(default="", description="option whose budget is spent: max_skips, max_rollbacks; or empty")
    count: int = Field(default=0, description="what was counted against the budget")
    detail: str = Field(default="", description="text from outside: an error, a difference, an amount")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """Take a null for a field that is not there."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class Outcome(Part):
    """What came of an incident and its remedies together: of all incidents of one step."""

    epoch: int = Field(description="epoch, from 1")
    step: int = Field(description="optimizer step of the run, from 1")
    steps_lost: int = Field(description="optimizer steps that it cost: skipped, or taken back")
    healthy_since: int = Field(
        description="healthy steps that followed and were not undone, up to the next time that the same happened"
    )
    held: str = Field(
        description="confirmed: 10 healthy steps or more followed; again: the same happened again before; open: too "
        "few steps have followed to tell"
    )
    stock: str = Field(
        description="what Ultralytics alone would have done: nan_weights, nan_weights_first_epoch, skipped, "
        "skipped_nan_statistics, kept_state, kept_statistics, went_on, zero_gradients or unknown"
    )
    options: str = Field(default="", description="what to change, for gradsafe's YAML file, or empty")
    arguments: str = Field(default="", description="for Ultralytics, as key=value words, or empty")
    command: str = Field(default="", description="for a shell, or empty")


class Epoch(Part):
    """One epoch; all tries together where Ultralytics redid it."""

    epoch: int = Field(description="epoch, from 1")
    steps: int = Field(description="optimizer steps recorded")
    grad_norm_median: float | None = Field(description="median of the finite norms of the steps that were applied")
    grad_norm_max: float | None = Field(description="largest finite norm of the steps that were applied")
    clipped: int = Field(description="steps that were applied with smaller gradients")
    skipped: int = Field(description="steps that GradSafe did not apply")
    amp_overflows: int = Field(description="steps that GradScaler skipped; routine")
    loss_mean: float | None = Field(description="mean of the finite losses of the steps, each summed over its batch")
    accuracy: float | None = Field(
        default=None, description="what the validation said, in the metric of the run's accuracy; null without one"
    )
    fitness: float | None = Field(
        default=None, description="what Ultralytics chooses the best epoch by; null without a validation"
    )


class Accuracy(Part):
    """What Ultralytics' validation said of the model."""

    metric: str = Field(description="what is measured: mAP50, pose mAP50, mask mAP50, top-1 accuracy, ...")
    best: float = Field(description="in the epoch with the best fitness, whose weights are best.pt; 0 to 1")
    best_epoch: int = Field(description="that epoch")
    last: float = Field(description="in the last epoch that was validated")
    last_epoch: int = Field(description="that epoch")


class Earlier(Part):
    """The last earlier run of the same data and model in the same folder."""

    name: str = Field(description="name of its folder")
    metric: str = Field(description="what is measured")
    best: float = Field(description="its accuracy in its best epoch")


class Reason(Part):
    """Why a model did not learn, or why that is not known; what the numbers mean depends on the reason."""

    reason: str = Field(
        description="rate_too_high, rate_too_low, steps_skipped, too_few_steps, loss_zero, branch_silent, layer_died, "
        "validation_loss, constant_predictor, overfitting, never_rose, collapsed, fell; or, where it is unknown, "
        "too_short, not_validated, good_from_the_start"
    )
    message: str = Field(description="the reason, a sentence made of the other fields")
    names: list[str] = Field(default_factory=list, description="loss items, stages or layers that it is about")
    value: Number = Field(default="nan", description="what was recorded")
    limit: Number = Field(default="nan", description="what it is held against")
    epoch: int = Field(
        default=0, description="epoch since which, or up to which, it was so; 0 where it does not matter"
    )


class LoweredRate(Part):
    """A learning rate that was too high, and was lowered: the last time, where that happened several times."""

    epoch: int = Field(description="epoch, from 1")
    step: int = Field(description="optimizer step of the run, from 1")
    before: float = Field(
        description="lr0 as the user set it; the rate that a schedule or a callback had set where that is higher; the "
        "highest rate of the schedule where lr0 is not known"
    )
    after: float = Field(description="what that rate was lowered to; it may have grown again since")
    is_lr0: bool = Field(description="whether the rate is the user's lr0")
    moved_too_far: bool = Field(description="whether it was lowered because a step moved the weights too far")
    times: int = Field(description="how often it was lowered")


class Spike(Part):
    """The largest jump of a loss or the gradient norm by a factor of a million or more."""

    what: SpikeKind = Field(description="what jumped")
    name: str = Field(default="", description="its column: of results.csv for a validation loss, else of steps.csv")
    epoch: int = Field(description="epoch, from 1")
    step: int = Field(description="optimizer step of the run, from 1; 0 for a validation loss")
    value: float = Field(description="what it was there")
    times: float = Field(description="how many times its usual value, the median of the steps or epochs before")


class Advice(Part):
    """A setting to change, and the recorded facts that speak for it; which of the three is to paste depends."""

    rule: str = Field(description="name of the rule that gave it")
    title: str = Field(description="what to do, a sentence")
    evidence: str = Field(description="what was recorded, with numbers")
    options: str = Field(default="", description="for gradsafe's YAML file, or empty")
    arguments: str = Field(default="", description="for Ultralytics, as key=value words, or empty")
    command: str = Field(default="", description="for a shell, or empty")
