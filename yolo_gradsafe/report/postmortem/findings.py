"""The rules of the post-mortem: each looks at what is on record and finds one thing, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yolo_gradsafe.judge.learning import ABSURD, COLLAPSE, NOTHING, TIMES
from yolo_gradsafe.report.advice.facts import plural
from yolo_gradsafe.report.postmortem.checkpoint import Checkpoint, Tensor
from yolo_gradsafe.report.postmortem.facts import Array, Facts
from yolo_gradsafe.report.postmortem.record import Finding, Severity

__all__ = ["LEARNED", "RULES", "find", "span"]

LEARNED = 0.02
"""Accuracy from which on a model has learned something."""
FELL = 0.5
"""Share of the best accuracy under which the last one has fallen."""
ROSE = 2.0
"""Times its lowest value that a training loss has risen to when training runs away."""
STREAK = 3
"""Epochs in a row of an absurd validation that are no beginning."""
SLOW = 1.9
"""Times the usual duration of an epoch that was probably trained twice."""
NAMES = 4
"""Tensors that are named at most."""


def find(facts: Facts) -> list[Finding]:
    """Apply every rule; the worst findings first."""
    order: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: order[finding.severity])


# Checkpoints ----------------------------------------------------------------------------------------------------------


def damaged(facts: Facts) -> Iterator[Finding]:
    """Weights or statistics in a checkpoint that training did not make."""
    for one in facts.checkpoints:
        if one.error or not one.damaged:
            continue
        is_last = one.file.endswith("last.pt")
        parts = [
            _tensors(one.nonfinite, one, "NaN or Inf in"),
            _tensors(one.zero, one, "0 throughout, which Ultralytics writes for NaN, in"),
            _tensors(one.clamped, one, "±65504, which Ultralytics writes for Inf, in"),
        ]
        yield Finding(
            kind="damaged_last" if is_last else "damaged_best",
            severity="error",
            title=f"{one.file} is damaged.",
            evidence=f"{'; '.join(part for part in parts if part)}.",
        )


def batchnorm(facts: Facts) -> Iterator[Finding]:
    """Running statistics that no image explains."""
    for one in facts.checkpoints:
        if not one.batchnorm:
            continue
        named = ", ".join(
            f"{layer.name} (mean up to {layer.mean:.3g}, variance up to {layer.variance:.3g})"
            for layer in one.batchnorm[:NAMES]
        )
        count = len(one.batchnorm)
        yield Finding(
            kind="batchnorm",
            severity="error" if one.file.endswith("last.pt") else "warning",
            title=f"Batch-norm statistics in {one.file} are off.",
            evidence=f"{plural(count, 'layer')}: {named}{_more(count)}. Activations ran away, or a batch held Inf.",
        )


def unreadable(facts: Facts) -> Iterator[Finding]:
    """A checkpoint that cannot be read."""
    for one in facts.checkpoints:
        if one.error:
            yield Finding(
                kind="unreadable",
                severity="error" if one.file.endswith("last.pt") else "warning",
                title=f"{one.file} cannot be read.",
                evidence=f"{one.error}. A full disk or a kill while it was written leaves half a file.",
            )


def optimizer_state(facts: Facts) -> Iterator[Finding]:
    """NaN in the optimizer: a resumed training is NaN from its first step."""
    last = facts.last
    if last is not None and last.optimizer_nonfinite:
        yield Finding(
            kind="optimizer_state",
            severity="error",
            title="The optimizer's state in last.pt is not finite.",
            evidence=f"{last.optimizer_nonfinite} of its tensors hold NaN or Inf: resuming goes on with them.",
        )


def loss_scale(facts: Facts) -> Iterator[Finding]:
    """A loss scale that has fallen to where fp16 gradients vanish."""
    scale = facts.last.amp_scale if facts.last is not None else None
    if scale is not None and scale < 1:
        yield Finding(
            kind="loss_scale",
            severity="warning",
            title="Mixed precision's loss scale has collapsed.",
            evidence=f"GradScaler's scale is {scale:.3g} in last.pt; it begins at 65536 and halves at each overflow.",
        )


# Losses ---------------------------------------------------------------------------------------------------------------


def not_finite(facts: Facts) -> Iterator[Finding]:
    """Losses that are NaN or Inf."""
    for start, kind, what in (("train/", "loss_nan", "training"), ("val/", "validation_nan", "validation")):
        names = [name for name in facts.named(start) if not np.isfinite(facts.column(name)).all()]
        if start == "val/" and not facts.validated:
            continue
        epochs = _where(facts, ~np.isfinite(facts.total(start))) if names else []
        if epochs:
            at_end = epochs[-1] == facts.epochs[-1]
            yield Finding(
                kind=kind,
                severity="error" if at_end else "warning",
                title=f"The {what} loss was not finite{', up to the end' if at_end else ''}.",
                evidence=f"NaN or Inf in {', '.join(names)}, {span(epochs)}.",
                epochs=epochs,
            )


def zero(facts: Facts) -> Iterator[Finding]:
    """Losses that are all exactly 0, as those of a model that predicts nothing or NaN are."""
    for start, kind, what in (("train/", "loss_zero", "training"), ("val/", "validation_zero", "validation")):
        if start == "val/" and not facts.validated:
            continue
        epochs = _where(facts, facts.total(start) == 0)
        if epochs:
            at_end = epochs[-1] == facts.epochs[-1]
            yield Finding(
                kind=kind,
                severity="error" if at_end else "warning",
                title=f"All {what} losses were exactly 0{', up to the end' if at_end else ''}.",
                evidence=f"{', '.join(facts.named(start))}: {span(epochs)}. No real loss is: the model predicted "
                "nothing that can be compared, as with NaN in its weights.",
                epochs=epochs,
            )


def absurd(facts: Facts) -> Iterator[Finding]:
    """A validation loss at the end, or for epochs in a row, that no images explain."""
    if not facts.validated or not facts.epochs:
        return
    for name in facts.named("val/"):
        value, twin = facts.column(name), name.replace("val/", "train/", 1)
        trained = facts.column(twin) if twin in facts.results.columns else np.ones(len(value))
        huge = (value > ABSURD) & (value > TIMES * abs(trained))
        sound = np.flatnonzero(~huge)
        streaks = np.diff(np.concatenate([[-1], sound, [len(huge)]])) - 1
        if huge[-1] or streaks.max() >= STREAK:  # a young model has an epoch or two of that
            worst = int(np.where(huge, value, 0).argmax())
            yield Finding(
                kind="validation_absurd",
                severity="error" if huge[-1] else "warning",
                title=f"The validation loss {'is' if huge[-1] else 'was'} absurd.",
                evidence=f"{name} was up to {value[worst]:.3g}, in epoch {facts.epochs[worst]}, where {twin} was "
                f"{trained[worst]:.3g}: averaged weights or batch-norm statistics, which validation uses, ran away.",
                epochs=_where(facts, huge),
            )
            return


def rose(facts: Facts) -> Iterator[Finding]:
    """A training loss that rose to many times what it had been."""
    total = facts.total("train/")
    good = np.isfinite(total)
    if good.sum() < 3:
        return
    epochs, values = np.array(facts.epochs)[good], total[good]
    high = int((values / np.minimum.accumulate(np.maximum(values, 1e-9))).argmax())
    lowest = int(values[: high + 1].argmin())
    if values[lowest] > 0 and values[high] > ROSE * values[lowest]:
        stayed = values[-1] > ROSE * values[lowest]
        yield Finding(
            kind="loss_rose",
            severity="error" if stayed else "warning",
            title=f"Training ran away{'' if stayed else ', and came back'}.",
            evidence=f"The training losses together were {values[lowest]:.4g} in epoch {epochs[lowest]} and "
            f"{values[high]:.4g} in epoch {epochs[high]}.",
            epochs=[int(epoch) for epoch in epochs[lowest + 1 : high + 1]],
        )


# Accuracy -------------------------------------------------------------------------------------------------------------


def accuracy(facts: Facts) -> Iterator[Finding]:
    """Accuracy that collapsed, fell, fell to 0 on the way, or never rose."""
    values = np.nan_to_num(facts.accuracy)
    if not len(values):
        return
    name, best = facts.accuracy_column, int(values.argmax())
    top, last = float(values[best]), float(values[-1])
    was = f"{name} was {top:.3g} in epoch {facts.epochs[best]} and is {last:.3g} in epoch {facts.epochs[-1]}."
    after = facts.epochs[best + 1 :]
    if top >= LEARNED and last < COLLAPSE * top:
        yield Finding(kind="collapsed", severity="error", title="Accuracy collapsed.", evidence=was, epochs=after)
    elif top >= 5 * LEARNED and last < FELL * top:
        yield Finding(kind="fell", severity="warning", title="Accuracy fell by half.", evidence=was, epochs=after)
    elif dips := _dips(facts, values):
        yield Finding(
            kind="dipped",
            severity="warning",
            title="Accuracy fell to 0 on the way, and came back.",
            evidence=f"{name} was 0: {span(dips)}.",
            epochs=dips,
        )
    if top < NOTHING:
        early = not facts.unlearned
        yield Finding(
            kind="never_rose",
            severity="note" if early else "warning",
            title="Accuracy has not risen yet." if early else "Accuracy never rose.",
            evidence=f"{name} was at most {top:.3g} in {plural(len(values), 'epoch')}"
            + (", too early to tell." if early else "."),
        )


def _dips(facts: Facts, values: Array) -> list[int]:
    """Return the epochs whose accuracy is 0 after a good one."""
    before = np.maximum.accumulate(np.concatenate([[0.0], values[:-1]]))
    return _where(facts, (values == 0) & (before >= 5 * LEARNED))


# Epochs and the rate --------------------------------------------------------------------------------------------------


def repeated(facts: Facts) -> Iterator[Finding]:
    """Epochs that are on record twice, or not at all."""
    again = sorted({epoch for before, epoch in zip(facts.rows, facts.rows[1:], strict=False) if epoch <= before})
    if again:
        yield Finding(
            kind="repeated",
            severity="note",
            title="Epochs are on record twice.",
            evidence=f"results.csv goes back to {span(again)}: training was resumed from an earlier checkpoint, or "
            "redone. The later rows are taken.",
            epochs=again,
        )
    present = set(facts.epochs)
    missing = [e for e in range(1, max(present, default=0) + 1) if e not in present]
    if missing:
        yield Finding(
            kind="missing",
            severity="note",
            title="Epochs are missing.",
            evidence=f"results.csv has no row of {span(missing)}.",
            epochs=missing,
        )


def slow(facts: Facts) -> Iterator[Finding]:
    """Epochs that took as long as two: stock redoes an epoch after a NaN, and writes nothing of it."""
    took = facts.durations
    settled = took[1:][np.isfinite(took[1:])]
    if len(settled) < 4:
        return
    usual = float(np.median(settled))
    if np.quantile(settled, 0.75) > 1.3 * usual:  # such a clock tells nothing
        return
    where = np.flatnonzero(took > SLOW * usual)
    epochs = [facts.epochs[k] for k in where if k > 0]
    if epochs:
        times = float(np.nanmax(took[1:])) / usual
        yield Finding(
            kind="slow",
            severity="note",
            title="Some epochs took as long as several.",
            evidence=f"{span(epochs)}: up to {times:.1f} times the usual {usual:.3g} s. Ultralytics repeats an epoch "
            "whose loss ended as NaN, and does not record that; a busy machine looks the same.",
            epochs=epochs,
        )


def warming(facts: Facts) -> Iterator[Finding]:
    """A training that ended within its warm-up."""
    if facts.epochs and facts.planned and facts.warm_up >= facts.planned and len(facts.rate) > 1:
        yield Finding(
            kind="warming",
            severity="note",
            title="The warm-up is as long as the training.",
            evidence=f"warmup_epochs={facts.warm_up:g}, epochs={facts.planned}: the learning rate never came to lr0.",
        )


RULES: Sequence[Callable[[Facts], Iterable[Finding]]] = (
    damaged,
    unreadable,
    not_finite,
    zero,
    absurd,
    rose,
    accuracy,
    batchnorm,
    optimizer_state,
    loss_scale,
    repeated,
    slow,
    warming,
)
"""The rules, of equal findings what matters most first."""


def span(epochs: Sequence[int]) -> str:
    """Return epochs in words: ``epoch 4``, ``epochs 4 to 7 and 9``."""
    runs: list[list[int]] = []
    for epoch in epochs:
        if runs and epoch == runs[-1][-1] + 1:
            runs[-1].append(epoch)
        else:
            runs.append([epoch])
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:NAMES]]
    more = f" and {len(runs) - NAMES} more" if len(runs) > NAMES else ""
    joined = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 and not more else [", ".join(words)])
    return f"epoch{'s' * (len(epochs) != 1)} {joined}{more}"


def _tensors(tensors: Sequence[Tensor], one: Checkpoint, what: str) -> str:
    if not tensors:
        return ""
    named = ", ".join(
        f"{tensor.name}" + (f" ({tensor.count:,} of {tensor.elements:,})" if tensor.count < tensor.elements else "")
        for tensor in tensors[:NAMES]
    )
    return f"{what} {len(tensors)} of {one.tensors} tensors: {named}{_more(len(tensors))}"


def _where(facts: Facts, mask: npt.NDArray[Any]) -> list[int]:
    return [facts.epochs[k] for k in np.flatnonzero(mask)]


def _more(count: int) -> str:
    return f" and {count - NAMES} more" if count > NAMES else ""
