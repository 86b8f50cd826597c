"""The sentences of incidents and of findings, for people. The only place that makes them; programs read the fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from yolo_gradsafe.telemetry.schema import Cause, Finding, Held, Incident, Kind, Place, Remedy, Shortfall, Stock

__all__ = ["action", "capitalized", "cost", "culprit", "held", "message", "shortfall", "stock"]


def capitalized(text: str) -> str:
    """Begin a text with a capital letter, where it begins with a word; a name, such as ``box_loss``, stays as it is."""
    first = text.split(" ")[0].rstrip(",;:")
    return text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text


def message(incident: Incident) -> str:
    """Say what was seen, without a full stop."""
    said = _MESSAGES[incident.kind](incident)
    return f"{said} (rank {incident.rank})" if incident.rank >= 0 else said


def action(incident: Incident) -> str:
    """Say what was done, without a full stop."""
    if incident.kind in _ACTIONS:
        return _ACTIONS[incident.kind](incident)
    return ", ".join(_CLAUSES[remedy](incident) for remedy in incident.remedies)


def culprit(incident: Incident) -> str:
    """Say what was found to be the matter, without a full stop; empty when it was not looked into."""
    if incident.cause not in _CULPRITS:
        return ""
    said = _CULPRITS[incident.cause](incident)
    return f"{said} ({_composed(incident)})" if incident.composite and incident.images else said


def _bad_batch(seen: Incident) -> str:
    if seen.place is Place.OPEN_WINDOW:
        return f"the loss was {seen.loss} in a batch that no optimizer step had used yet"
    if seen.place is Place.LOSS:
        terms = ", ".join(name for name, value in seen.items.items() if not math.isfinite(value))
        return f"the loss was {seen.loss}" + (f" (in {terms})" if terms else "")
    if seen.place is Place.WINDOW:
        return "the loss of an earlier batch of the accumulation window, or of another rank, was not finite"
    if seen.tensors:
        verb = "was" if seen.tensor_count == 1 else "were"
        return f"the loss was finite, but {_count(seen.tensor_count, 'gradient')} {verb} not: {_first(seen)}"
    return "loss and gradients were finite on this rank but not on another"


def _poisoned(seen: Incident) -> str:
    if seen.place is Place.BATCHNORM:
        return "batch-norm statistics were not finite or far too large, although the loss and the gradients were finite"
    return "weights, batch-norm statistics or optimizer state were not finite"


def _diverging(seen: Incident) -> str:
    if seen.cause == Cause.LEARNING_RATE:
        return _moved(seen)
    if seen.place is Place.BATCHNORM:
        return "batch-norm statistics overflowed in every step"
    return f"the loss, {seen.loss:.3g}, is far above its usual range; trusted weights give a lower loss on this batch"


def _moved(seen: Incident) -> str:
    return f"one step changed the weights by {seen.update_ratio:.0%} of their size; up to 2% is healthy"


def _lowered(seen: Incident) -> str:
    if seen.cause == Cause.LEARNING_RATE:
        return _moved(seen)
    if seen.place is Place.VALIDATION:
        return "validation failed again after the rollback" if seen.count else "validation failed"
    return "training diverged"


def _healed(seen: Incident) -> str:
    why = {
        Place.EPOCH_END: "values were not finite or far too large at the end of the epoch",
        Place.SNAPSHOT: "a snapshot was not finite",
        Place.RANKS: "the ranks no longer had the same weights",
    }.get(seen.place, "values were not finite or far too large")
    return f"{why}: {_first(seen)}" if seen.tensors else why


def _first(seen: Incident) -> str:
    """Name the first tensors."""
    return ", ".join(seen.tensors[:3]) + (f" and {seen.tensor_count - 3} more" if seen.tensor_count > 3 else "")


def _rollback(seen: Incident) -> str:
    if seen.place is Place.VALIDATION:
        return "the validation loss was not finite or far too large; with the earlier weights it is normal"
    return "the weights were damaged"


def _precision(seen: Incident) -> str:
    if seen.place is Place.VALIDATION:
        return f"validation overflowed in {seen.precision_before}, although the weights are finite"
    if Remedy.PRECISION_LOWERED in seen.remedies:
        return "training has been healthy since"
    return f"steps overflowed in {seen.precision_before}, but not in a higher precision"


def _stop(seen: Incident) -> str:
    if seen.budget == "hopeless_after":
        why = f": {seen.culprit}" if seen.culprit else ""
        return f"each of the first {seen.count} steps failed{why}"
    if seen.budget == "max_rollbacks":
        return f"{seen.count} rollbacks did not make training stable"
    return f"{seen.count} optimizer steps in a row were skipped"


def _internal_error(seen: Incident) -> str:
    return "GradSafe failed on one rank" if seen.place is Place.RANKS else f"could not {seen.detail}"


def _quarantine(seen: Incident) -> str:
    return f"{', '.join(Path(image).name for image in seen.images)} made training fail more than once"


_MESSAGES: dict[Kind, Callable[[Incident], str]] = {
    Kind.BAD_BATCH: _bad_batch,
    Kind.POISONED: _poisoned,
    Kind.DIVERGING: _diverging,
    Kind.STALLED: lambda seen: f"the gradients of {', '.join(seen.stages)} have vanished",
    Kind.NORM_OVERFLOW: lambda seen: (
        f"the gradient norm, {seen.grad_norm:.3g}, overflows fp32 although every gradient is finite"
    ),
    Kind.ISOLATED: lambda seen: f"the gradients of batch {seen.batch} of an accumulation window were not finite",
    Kind.QUARANTINE: _quarantine,
    Kind.HEALED: _healed,
    Kind.ROLLBACK: _rollback,
    Kind.LR_BACKOFF: _lowered,
    Kind.LR_RAMP: lambda _: "training has been healthy since",
    Kind.PRECISION: _precision,
    Kind.STOP: _stop,
    Kind.NO_SNAPSHOTS: lambda seen: f"two snapshots do not fit into recovery.snapshot_memory ({seen.detail})",
    Kind.VALIDATION: lambda seen: (
        f"{seen.term or 'the validation loss'} {'are' if ',' in seen.term else 'is'} not finite, also with trusted "
        "weights: the weights are not the cause"
    ),
    Kind.BATCHNORM_LAG: lambda _: (
        "the validation loss was far too large, or 0, although the training loss was fine: batch-norm statistics lag "
        "behind weights that move fast"
    ),
    Kind.INTERNAL_ERROR: _internal_error,
    Kind.NATIVE_RECOVERY: lambda _: "the epoch ended in NaN",
    Kind.OBSERVE_ONLY: lambda seen: seen.detail,
}


def _took_from(done: Incident) -> str:
    if done.place is Place.RANKS:
        return "copied the weights of the rank whose weights had changed least"
    said = f"restored these values from the snapshot of step {done.snapshot}"
    if Remedy.RANKS_SYNCED in done.remedies and done.count >= 0:
        said += f", and copied the weights of rank {done.count}"
    return said


def _norm_overflow(done: Incident) -> str:
    if Remedy.OBSERVED in done.remedies:
        return "nothing, recovery is off: Ultralytics sets all gradients to 0"
    return "clipped by the correct norm" if Remedy.CLIPPED in done.remedies else "left unchanged: clipping is off"


def _lowered_to(done: Incident) -> str:
    return f"lowered the learning rate to {done.lr_factor:.3g} times its planned value"


def _followed(_: Incident) -> str:
    return "raised the momentum of batch-norm statistics, so that they follow the weights"


def _changed_precision(done: Incident) -> str:
    if done.place is Place.VALIDATION:
        return f"validation continues in {done.precision}"
    if Remedy.PRECISION_LOWERED in done.remedies:
        return f"returned to {done.precision}"
    return f"training continues in {done.precision}"


_ACTIONS: dict[Kind, Callable[[Incident], str]] = {
    Kind.HEALED: _took_from,
    Kind.NORM_OVERFLOW: _norm_overflow,
    Kind.PRECISION: _changed_precision,
    Kind.LR_RAMP: lambda done: (
        "raised the learning rate to its planned value"
        if done.lr_factor == 1
        else f"raised the learning rate to {done.lr_factor:g} times its planned value"
    ),
    Kind.STALLED: lambda _: "nothing; see the advice",
    Kind.ISOLATED: lambda _: "dropped this batch and kept the others of the window",
    Kind.QUARANTINE: lambda _: "will leave it out of later batches; see quarantine.txt",
    Kind.NO_SNAPSHOTS: lambda _: "bad steps are skipped, but nothing can be repaired or rolled back",
    Kind.VALIDATION: lambda _: "changed nothing; check the validation data and the code that computes this value",
    Kind.INTERNAL_ERROR: lambda done: (
        "gave all ranks the weights of rank 0" if done.place is Place.RANKS else "logged; training continues"
    ),
    Kind.NATIVE_RECOVERY: lambda _: "Ultralytics loaded last.pt and repeats the epoch",
    Kind.OBSERVE_ONLY: lambda _: "GradSafe only observes this training and changes nothing",
}

_CLAUSES: dict[Remedy, Callable[[Incident], str]] = {
    Remedy.SKIPPED: lambda _: "skipped the step",
    Remedy.STATISTICS_RESTORED: lambda done: (
        "restored the batch-norm statistics" + ("" if Remedy.SKIPPED in done.remedies else " and took the step")
    ),
    Remedy.REPAIRED: lambda done: f"repaired {_count(done.repaired, 'tensor')}",
    Remedy.ROLLED_BACK: lambda done: (
        f"rolled back to the snapshot of step {done.snapshot} ({_count(done.undone, 'step')} lost)"
    ),
    Remedy.LR_LOWERED: _lowered_to,
    Remedy.BATCHNORM_MOMENTUM_RAISED: _followed,
    Remedy.PRECISION_RAISED: lambda done: f"raised the precision to {done.precision}",
    Remedy.STOPPED: lambda _: "ended the training",
    Remedy.MICRO_BATCH_DROPPED: lambda _: "dropped its gradients and restored the batch-norm statistics",
    Remedy.LEFT_TO_ULTRALYTICS: lambda _: "left the recovery to Ultralytics: there is no snapshot",
    Remedy.OBSERVED: lambda _: "did nothing: recovery.enabled is false",
}


def cost(steps: int) -> str:
    """Say how many optimizer steps an incident cost; empty where it cost none."""
    return f"{steps:,} step{'s' * (steps != 1)} lost" if steps else ""


def held(word: str, steps: int) -> str:
    """Say whether a remedy helped, without a full stop.

    Args:
        word: A ``Held``.
        steps: Healthy steps since, up to the next time.
    """
    since = f"{steps:,} healthy step{'s' * (steps != 1)}"
    if word == Held.CONFIRMED:
        return f"it held: {since} since"
    if word == Held.AGAIN:
        return f"it did not hold: the same happened again after {since}"
    return f"not confirmed yet: {since} since"


def stock(word: str) -> str:
    """Say what Ultralytics alone would have done, without a full stop; empty where that is not known."""
    return _STOCK.get(word, "")


_STOCK: dict[str, str] = {
    Stock.NAN_WEIGHTS: "takes the step, and its weights are NaN from there on: it repeats the epoch from last.pt, and "
    "training ends after three repeats",
    Stock.NAN_WEIGHTS_FIRST_EPOCH: "takes the step, and its weights are NaN from there on: in the first epoch there is "
    "no last.pt to go back to",
    Stock.SKIPPED: "skips the step as well: GradScaler does it",
    Stock.SKIPPED_NAN_STATISTICS: "skips the step as well, but its batch-norm statistics are NaN from there on, and "
    "validation fails",
    Stock.KEPT_STATE: "trains on with them, and repeats the epoch from last.pt once the loss is NaN",
    Stock.KEPT_STATISTICS: "keeps them, and validation fails",
    Stock.WENT_ON: "trains on with these weights at the same learning rate",
    Stock.ZERO_GRADIENTS: "clips by an infinite norm, which makes all gradients of the step 0",
}


_LIMITS = {"fp16": 65504.0, "bf16": 3.39e38}
_HARDWARE = 3
"""Transient faults from which on the hardware is named."""


def _composed(found: Incident) -> str:
    kinds = " or ".join(found.composite)
    return f"used in {kinds}" + (", and it also fails alone" if found.proven else " as the first of several images")


def _at(found: Incident) -> str:
    return f" at {found.layer}" if found.layer else ""


def _named(found: Incident) -> str:
    names = [Path(image).name for image in found.images]
    if not names:
        return "an image"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _with(found: Incident) -> str:
    return f" with {_named(found)}" if found.images else ""


def _image(found: Incident) -> str:
    holds = "holds" if len(found.images) < 2 else "hold"
    return f"{_named(found)} {holds} {found.detail or 'NaN or Inf pixels'}"


def _label(found: Incident) -> str:
    return f"the labels of {_named(found)} are wrong: {found.detail or 'they are not finite'}"


def _preprocessing(found: Incident) -> str:
    if found.stage == "preprocess_batch":
        where = f"{found.operation or 'they appear there'}; the file and the loaded batch are fine"
        return f"{_image(found)} after preprocess_batch: {where}"
    if found.stage == "transforms":
        return f"{_image(found)} after the transforms of the data set; the file is fine"
    return f"{_image(found)} although the file is fine"


def _precision_fault(found: Incident) -> str:
    kind, limit = found.failed_in, _LIMITS.get(found.failed_in, math.inf)
    size = f" (max {_brief(found.magnitude)}, {kind} ends at {limit:g})" if found.magnitude > limit else ""
    where = f" in {found.layer}" if found.layer else ""
    if found.backward:
        where = f" of the gradients{_at(found)}"
    return f"{kind} overflow{where or ' in the loss'}{size}{_with(found)}; fp32 is finite"


def _activations(found: Incident) -> str:
    if found.backward:
        said = f"the gradients become NaN or Inf in the backward pass{_at(found)}{_with(found)}"
    else:
        size = f" (largest finite value {_brief(found.magnitude)})" if found.magnitude > 0 else ""
        of = f" of {found.layer}" if found.layer else ""
        said = f"the output{of} is not finite in fp32 either{size}{_with(found)}"
    return _and_line(said, found)


def _loss(found: Incident) -> str:
    if found.backward:
        said = f"the gradient of the loss is not finite{_with(found)}, although the loss is finite"
    else:
        said = f"{found.term or 'the loss'} is not finite{_with(found)}, although all outputs of the model are finite"
    return _and_line(said, found)


def _weights(found: Incident) -> str:
    if found.tensors:
        more = f" ({found.tensor_count} tensors)" if found.tensor_count > 1 else ""
        statistics = all(name.rpartition(".")[2].startswith("running_") for name in found.tensors)
        what = "batch-norm statistics" if statistics else "weights"
        return f"{what} of {found.layer or 'the model'} are not finite{more}"
    return "the weights are damaged: on other images, trusted weights give a loss several times lower"


def _outlier(found: Incident) -> str:
    said = f"{found.term or 'the loss'} is far above its usual value{_with(found)}"
    return said + (f": {found.detail}" if found.detail else "")


def _transient(found: Incident) -> str:
    if not 0 < found.amp_scale < math.inf:
        ranks = ", or differed between the ranks" if found.amp_scale == 0 else ""
        return f"the loss scale was {found.amp_scale:g}{ranks}, which leaves nothing of any gradient; it is set back"
    said = "the same batch did not fail again: the fault was transient"
    if found.repeats >= _HARDWARE:
        said += f", {found.repeats} times so far; if your code is not random, check the hardware"
    return said


def _and_line(said: str, found: Incident) -> str:
    return f"{said}; {found.operation}" if found.operation else said


def _brief(value: float) -> str:
    """Write a number short: ``7.1e4``, ``12``, ``inf``."""
    if not math.isfinite(value):
        return f"{value:g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{value:.3g}" if 1e-2 <= value < 1e4 else f"{digits}e{int(exponent)}"


_CULPRITS: dict[str, Callable[[Incident], str]] = {
    Cause.IMAGE: _image,
    Cause.LABEL: _label,
    Cause.PREPROCESSING: _preprocessing,
    Cause.PRECISION: _precision_fault,
    Cause.ACTIVATIONS: _activations,
    Cause.LOSS: _loss,
    Cause.WEIGHTS: _weights,
    Cause.OUTLIER: _outlier,
    Cause.TRANSIENT: _transient,
    Cause.LEARNING_RATE: lambda _: "the learning rate is too high for this model",
    Cause.UNKNOWN: lambda found: found.detail or "the cause is not known",
}


def shortfall(finding: Finding) -> str:
    """Say why a run did not learn, or why that is not known, without a full stop."""
    return _SHORTFALLS[finding.reason](finding)


def _listed(names: tuple[str, ...]) -> str:
    """Name up to three things."""
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)


def _count(number: float, noun: str) -> str:
    return f"{number:,.0f} {noun}" + "s" * (number != 1)


def _rate_too_high(found: Finding) -> str:
    return f"lr0={found.value:g} is too high" if found.names else f"a learning rate of {found.value:.2g} is too high"


def _too_few_steps(found: Finding) -> str:
    if found.names:
        return f"training ended before its warm-up of {found.limit:,.0f} batches was over"
    return f"{_count(found.value, 'optimizer step')} {'is' if found.value == 1 else 'are'} too few"


def _loss_zero(found: Finding) -> str:
    verb = "was" if len(found.names) == 1 else "were"
    return f"{_listed(found.names)} {verb} exactly 0 in all steps, although there are {_count(found.limit, 'object')}"


def _validation_loss(found: Finding) -> str:
    if found.value == 0:
        what = "exactly 0"
    else:
        what = f"as large as {found.value:.1g}" if math.isfinite(found.value) else "not finite"
    names = tuple(f"val/{name}" for name in found.names)
    verb = "is" if len(names) == 1 else "are"
    return f"{_listed(names)} {verb} {what} from epoch {found.epoch} on, unlike the training loss"


def _constant_predictor(found: Finding) -> str:
    if found.names[0] == "training":
        return "the training loss did not fall"
    return "the validation loss did not change: the model predicts the same for every image"


def _never_rose(found: Finding) -> str:
    if found.value == 0:
        return f"accuracy stayed at 0 for {_count(found.epoch, 'epoch')}"
    first = f"after the first it was {found.limit:.2g}"
    return f"the best fitness in {_count(found.epoch, 'epoch')} was {found.value:.2g}; {first}"


_SHORTFALLS: dict[Shortfall, Callable[[Finding], str]] = {
    Shortfall.RATE_TOO_HIGH: _rate_too_high,
    Shortfall.RATE_TOO_LOW: lambda found: (
        f"a learning rate of {found.value:.2g} is too low: all steps together moved the weights by less than 1 %"
    ),
    Shortfall.STEPS_SKIPPED: lambda found: f"{found.value:,.0f} of {_count(found.limit, 'step')} were skipped",
    Shortfall.TOO_FEW_STEPS: _too_few_steps,
    Shortfall.LOSS_ZERO: _loss_zero,
    Shortfall.BRANCH_SILENT: lambda found: (
        f"{_listed(found.names)} had only {found.value:.1g} of the gradient norm from the first step on"
    ),
    Shortfall.LAYER_DIED: lambda found: f"{_listed(found.names)} had no gradient at all after epoch {found.epoch}",
    Shortfall.VALIDATION_LOSS: _validation_loss,
    Shortfall.CONSTANT_PREDICTOR: _constant_predictor,
    Shortfall.OVERFITTING: lambda found: (
        f"the training loss fell, but the validation loss was never lower than in epoch {found.epoch}"
    ),
    Shortfall.NEVER_ROSE: _never_rose,
    Shortfall.COLLAPSED: lambda found: f"accuracy fell to almost 0 after epoch {found.epoch}; best.pt holds that epoch",
    Shortfall.FELL: lambda found: (
        f"fitness was {found.limit:.2g} after epoch {found.epoch}, never better, and {found.value:.2g} at the end"
    ),
    Shortfall.TOO_SHORT: lambda found: (
        f"{_count(found.value, 'epoch')} {'is' if found.value == 1 else 'are'} too few to tell"
    ),
    Shortfall.NOT_VALIDATED: lambda found: (
        "the validation set has no object" if found.value == 0 else "there was no validation"
    ),
    Shortfall.GOOD_FROM_THE_START: lambda found: f"the model was already as good after epoch {found.epoch}",
}
