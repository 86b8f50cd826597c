"""What the records say of a run's learning, put together for ``judge.learning``; its verdict as parts of a summary."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import polars as pl

from yolo_gradsafe.judge.learning import Branch, Course, EpochScore, Learning, judge_learning
from yolo_gradsafe.report.advice.facts import SCALE_FREE, Facts
from yolo_gradsafe.report.health import ran_away
from yolo_gradsafe.report.parts import Accuracy, Reason
from yolo_gradsafe.report.records import STAGE, loss_items, stage_columns
from yolo_gradsafe.telemetry.schema import Finding, Kind, Place
from yolo_gradsafe.telemetry.sentences import shortfall

__all__ = ["accuracy", "by_epoch", "course", "learning", "reason"]

METRICS = {
    "metrics/mAP50(P)": "pose mAP50",
    "metrics/mAP50(M)": "mask mAP50",
    "metrics/mAP50(B)": "mAP50",
    "metrics/accuracy_top1": "top-1 accuracy",
    "metrics/mIoU": "mIoU",
    "metrics/delta1": "delta1",
}
"""What is shown as accuracy: the first that ``results.csv`` has."""
FITNESS = ("metrics/mAP50-95(B)", "metrics/mAP50-95(P)", "metrics/mAP50-95(M)", "metrics/mIoU", "metrics/delta1")
"""What Ultralytics adds up to its fitness; for a classifier it is the mean of the two accuracies."""
GAINS = {"l1_loss": "dfl", "seg_loss": "box", "sem_loss": "box"}
"""The argument that weighs a loss item where it is not the item's own name."""
BRANCHES = {"class": ("cls",), "box": ("box", "dfl"), "keypoint": ("pose", "kobj", "rle"), "flow": ("rle",),
            "mask": ("box",), "angle": ("angle",)}  # fmt: skip
"""The arguments that weigh what a branch of the head learns by."""
DEAD_EPOCHS = 2
"""Last epochs in which a layer that died had no gradient at all."""


def learning(facts: Facts) -> Learning:
    """Return whether the model of a run learned."""
    return judge_learning(course(facts))


def reason(finding: Finding) -> Reason:
    """Return a finding as a part of the summary."""
    return Reason(
        reason=str(finding.reason),
        message=shortfall(finding),
        names=list(finding.names),
        value=finding.value,
        limit=finding.limit,
        epoch=finding.epoch,
    )


def accuracy(facts: Facts) -> Accuracy | None:
    """Return the accuracy in the best and in the last epoch; None where there was no validation that says anything."""
    table, column = _scored(facts)
    if not column:
        return None
    table = table.filter(pl.col(column).is_finite())
    if table.is_empty():
        return None
    best = table[_order(_fitness(table), table[column])]
    return Accuracy(
        metric=METRICS[column],
        best=best[column].item(),
        best_epoch=int(best["epoch"].item()),
        last=table[column][-1],
        last_epoch=int(table["epoch"][-1]),
    )


def by_epoch(facts: Facts) -> dict[int, dict[str, float | None]]:
    """Return accuracy and fitness of each epoch that was validated; what is not known or not finite is None."""
    table, column = _scored(facts)
    if not column:
        return {}
    values = zip(table["epoch"].to_list(), table[column].to_list(), _fitness(table).to_list(), strict=True)
    return {
        int(epoch): {"accuracy": _known(accuracy), "fitness": _known(fitness)} for epoch, accuracy, fitness in values
    }


def _scored(facts: Facts) -> tuple[pl.DataFrame, str]:
    """Return the epochs that were validated, and the column that is shown as accuracy; empty where none says much."""
    table = _validated(facts)
    column = next((name for name in METRICS if name in table.columns), "")
    return table, "" if facts.run.validation_objects == 0 else column


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def course(facts: Facts) -> Course:
    """Put together what the records say of a run's learning."""
    rows, run = facts.rows, facts.run
    taken = rows.filter("applied")
    dead, last_alive = _dead_layers(facts.layers)
    last = max([*_epochs(facts)["epoch"].tail(1).to_list(), *rows["epoch"].tail(1).to_list()], default=0)
    lr0 = facts.arguments.get("lr0")
    chosen = isinstance(lr0, (int, float)) and facts.arguments.get("optimizer") != "auto"
    model, pretrained = run.model.lower(), facts.arguments.get("pretrained")
    return Course(
        epochs=list(_scores(facts)),
        planned=run.epochs,
        ended=bool(run.finished),
        steps=taken.height,
        skipped=int(rows["skipped"].sum()),
        batches=int(last) * run.batches,
        warmup_batches=run.warmup_batches,
        objects=run.objects,
        validation_objects=run.validation_objects,
        items=_largest_items(facts),
        branches=list(_branches(facts, taken)),
        dead_layers=dead,
        last_alive=last_alive,
        lr=facts.peak_lr,
        lr0=float(lr0) if chosen and lr0 is not None else math.nan,
        ran_away=any(ran_away(i.kind, i.cause) or _rescued(i.kind, i.place) for i in facts.incidents),
        rate_lowered=any(i.kind == Kind.LR_BACKOFF for i in facts.incidents),
        scale_free=run.optimizer in SCALE_FREE,
        update_ratio=facts.update_ratio,
        from_scratch=model.endswith((".yaml", ".yml")) and not isinstance(pretrained, str),
    )


def _rescued(kind: str, place: str) -> bool:
    return kind == Kind.ROLLBACK and place == Place.VALIDATION


def _epochs(facts: Facts) -> pl.DataFrame:
    """Return the rows of ``results.csv``, the last try of each epoch."""
    if "epoch" not in facts.results.columns:
        return pl.DataFrame(schema={"epoch": pl.Float64})
    return facts.results.filter(pl.col("epoch").is_finite()).unique("epoch", keep="last", maintain_order=True)


def _validated(facts: Facts) -> pl.DataFrame:
    """Return those that a validation stands behind."""
    table = _epochs(facts)
    if facts.arguments.get("val") is not False:
        return table
    # Then the other epochs show the zeros that Ultralytics begins with: the last one alone is validated.
    ended = bool(facts.run.finished) and not facts.run.error
    return table.tail(1) if ended else table.clear()


def _scores(facts: Facts) -> Iterator[EpochScore]:
    validated = _validated(facts)
    fitness = dict(zip(validated["epoch"].to_list(), _fitness(validated).to_list(), strict=True))
    own = _of_the_users_own(facts)
    for row in _epochs(facts).iter_rows(named=True):
        score = fitness.get(row["epoch"])
        yield EpochScore(
            epoch=int(row["epoch"]),
            fitness=math.nan if score is None else score,
            train=_losses(row, "train/"),
            validation=_losses(row, "val/", own) if row["epoch"] in fitness else {},
        )


def _of_the_users_own(facts: Facts) -> set[str]:
    """Return the validation losses that trusted weights did not mend: they say nothing of the model."""
    return {name for incident in facts.of_kind(Kind.VALIDATION) for name in incident.term.split(", ")}


def _losses(row: dict[str, Any], prefix: str, without: Collection[str] = ()) -> dict[str, float]:
    return {name.removeprefix(prefix): math.nan if value is None else value
            for name, value in row.items() if name.startswith(prefix) and name not in without}  # fmt: skip


def _fitness(table: pl.DataFrame) -> pl.Series:
    """Return the fitness of each row; nan where there is none."""
    parts = [name for name in FITNESS if name in table.columns]
    if parts:
        return table.select(fitness=pl.sum_horizontal(pl.col(name) for name in parts))["fitness"]
    accuracies = [name for name in table.columns if name.startswith("metrics/accuracy_")]
    if accuracies:
        return table.select(fitness=pl.mean_horizontal(accuracies))["fitness"]
    return pl.Series("fitness", [math.nan] * table.height)


def _order(fitness: pl.Series, metric: pl.Series) -> int:
    """Return the row with the best fitness, and of equal ones the one with the best metric."""
    pairs = [(f if math.isfinite(f) else -1.0, m) for f, m in zip(fitness.to_list(), metric.to_list(), strict=True)]
    return pairs.index(max(pairs))


def _switched_off(facts: Facts, gain: str) -> bool:
    return facts.arguments.get(gain) == 0


def _largest_items(facts: Facts) -> dict[str, float]:
    """Return the largest magnitude of each loss item; without those that the user gave a weight of 0."""
    names = [name for name in loss_items(facts.rows)
             if not _switched_off(facts, GAINS.get(name, name.removesuffix("_loss")))]  # fmt: skip
    if not names or facts.rows.is_empty():
        return {}
    largest = facts.rows.select(pl.col(names).abs().fill_nan(math.inf).max()).row(0, named=True)
    return {name: value for name, value in largest.items() if value is not None}


def _branches(facts: Facts, taken: pl.DataFrame) -> Iterator[Branch]:
    """Return the stages; without branches of the head whose loss the user gave a weight of 0."""
    taken = taken.filter(pl.col("grad_norm").is_finite() & (pl.col("grad_norm") > 0))
    for column in stage_columns(taken):
        name = column.removeprefix(STAGE)
        if taken.is_empty() or any(_switched_off(facts, gain) for gain in BRANCHES.get(name.rpartition(".")[2], ())):
            continue
        share = (taken[column] / taken["grad_norm"]).fill_null(math.nan)
        high = share.drop_nans().quantile(0.95)
        if high == 0 and not name.startswith("head."):  # nothing at all is what user code may have detached
            continue
        yield Branch(name, float(share[0]), math.nan if high is None else float(high))


def _dead_layers(layers: pl.DataFrame) -> tuple[list[str], int]:
    """Return the layers that had a gradient and have none at all any more, and the last epoch in which one had."""
    epochs = layers["epoch"].unique().sort().to_list()
    if len(epochs) <= DEAD_EPOCHS:
        return [], 0
    since = epochs[-DEAD_EPOCHS]
    norms = pl.col("norm_max")
    by_layer = layers.group_by("layer", maintain_order=True).agg(
        before=norms.filter(pl.col("epoch") < since).max(),
        after=norms.filter(pl.col("epoch") >= since).max(),
        last=pl.col("epoch").filter(norms > 0).max(),
    )
    gone = by_layer.filter((pl.col("before") > 0) & (pl.col("after") == 0))
    return gone["layer"].to_list(), int(gone["last"].max() or 0) if gone.height else 0  # type: ignore[arg-type]
