"""The sentences of an incident, for people. The only place that makes them; programs read the incident's fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from yolo_gradsafe.telemetry.schema import Incident, Kind, Place, Remedy

__all__ = ["action", "message"]


def message(incident: Incident) -> str:
    """Say what was seen, without a full stop."""
    said = _MESSAGES[incident.kind](incident)
    return f"{said} (rank {incident.rank})" if incident.rank >= 0 else said


def action(incident: Incident) -> str:
    """Say what was done, without a full stop."""
    if incident.kind in _ACTIONS:
        return _ACTIONS[incident.kind](incident)
    return ", ".join(_CLAUSES[remedy](incident) for remedy in incident.remedies)


def _bad_batch(seen: Incident) -> str:
    if seen.place is Place.OPEN_WINDOW:
        return f"the loss was {seen.loss} in a batch that had not come to a step"
    if seen.place is Place.LOSS:
        terms = ", ".join(name for name, value in seen.items.items() if not math.isfinite(value))
        return f"the loss was {seen.loss}" + (f" (in {terms})" if terms else "")
    if seen.place is Place.WINDOW:
        return "the loss of an earlier batch of the accumulation window, or of another rank, was not finite"
    if seen.tensors:
        return f"the loss was finite but {seen.tensor_count} gradients were not, first {seen.tensors[0]}"
    return "loss and gradients were finite on this rank but not on another"


def _poisoned(seen: Incident) -> str:
    if seen.place is Place.BATCHNORM:
        return "batch-norm statistics were not finite, or blown up, although loss and gradients were fine"
    return "weights, statistics or optimizer state were not finite"


def _diverging(seen: Incident) -> str:
    if seen.place is Place.BATCHNORM:
        return "batch-norm statistics overflow in every step"
    return f"the loss, {seen.loss:.3g}, is far out of its range, and trusted weights do better on this batch"


def _healed(seen: Incident) -> str:
    why = {
        Place.EPOCH_END: "not finite, or far too large, at the end of the epoch",
        Place.SNAPSHOT: "a snapshot was not finite",
        Place.RANKS: "the ranks no longer had the same weights",
    }.get(seen.place, "not finite, or far too large")
    if not seen.tensors:
        return why
    named = ", ".join(seen.tensors[:3])
    return f"{why}: {named}" + (f" and {seen.tensor_count - 3} more" if seen.tensor_count > 3 else "")


def _rollback(seen: Incident) -> str:
    if seen.place is Place.VALIDATION:
        return "validation was not finite, and is with the weights of before"
    return "the weights had gone bad"


def _precision(seen: Incident) -> str:
    if seen.place is Place.VALIDATION:
        return f"validation overflows in {seen.precision_before}, although the weights are finite"
    if Remedy.PRECISION_LOWERED in seen.remedies:
        return "training has been healthy since"
    return f"steps overflowed in {seen.precision_before} alone"


def _stop(seen: Incident) -> str:
    if seen.budget == "max_rollbacks":
        return f"{seen.count} rollbacks did not make training stable"
    return f"{seen.count} optimizer steps in a row had to be skipped"


def _internal_error(seen: Incident) -> str:
    return "the plugin had failed on a rank" if seen.place is Place.RANKS else f"could not {seen.detail}"


def _quarantine(seen: Incident) -> str:
    return f"{', '.join(Path(image).name for image in seen.images)} has failed again and again"


_MESSAGES: dict[Kind, Callable[[Incident], str]] = {
    Kind.BAD_BATCH: _bad_batch,
    Kind.POISONED: _poisoned,
    Kind.DIVERGING: _diverging,
    Kind.STALLED: lambda seen: f"the gradients of {', '.join(seen.stages)} have vanished",
    Kind.NORM_OVERFLOW: lambda seen: (
        f"the gradient norm, {seen.grad_norm:.3g}, overflows fp32 although every gradient is finite"
    ),
    Kind.ISOLATED: lambda seen: f"batch {seen.batch}, one of an accumulation window, was not finite",
    Kind.QUARANTINE: _quarantine,
    Kind.HEALED: _healed,
    Kind.ROLLBACK: _rollback,
    Kind.LR_BACKOFF: lambda _: "training diverged",
    Kind.LR_RAMP: lambda _: "training has been healthy since",
    Kind.PRECISION: _precision,
    Kind.STOP: _stop,
    Kind.NO_SNAPSHOTS: lambda seen: f"two snapshots do not fit into recovery.snapshot_memory ({seen.detail})",
    Kind.INTERNAL_ERROR: _internal_error,
    Kind.NATIVE_RECOVERY: lambda _: "the epoch ended in NaN",
    Kind.OBSERVE_ONLY: lambda seen: seen.detail,
}


def _took_from(done: Incident) -> str:
    if done.place is Place.RANKS:
        return "took those of the one that had moved least"
    origin = f"the snapshot of step {done.snapshot}" if done.snapshot >= 0 else "zeros: there is no snapshot"
    if Remedy.RANKS_SYNCED in done.remedies and done.count >= 0:
        origin += f", and the weights of rank {done.count}"
    return f"took the elements concerned from {origin}"


def _norm_overflow(done: Incident) -> str:
    if Remedy.OBSERVED in done.remedies:
        return "observed only: stock zeroes all gradients"
    return "clipped by its true norm" if Remedy.CLIPPED in done.remedies else "left as it was: nothing clips"


def _changed_precision(done: Incident) -> str:
    if done.place is Place.VALIDATION:
        return f"validation goes on in {done.precision}"
    if Remedy.PRECISION_LOWERED in done.remedies:
        return f"back to {done.precision}"
    return f"training goes on in {done.precision}"


_ACTIONS: dict[Kind, Callable[[Incident], str]] = {
    Kind.HEALED: _took_from,
    Kind.NORM_OVERFLOW: _norm_overflow,
    Kind.PRECISION: _changed_precision,
    Kind.LR_BACKOFF: lambda done: f"learning rate x{done.lr_factor:.3g}",
    Kind.LR_RAMP: lambda done: f"learning rate back at x{done.lr_factor:g}",
    Kind.STALLED: lambda _: "nothing: advice only",
    Kind.ISOLATED: lambda _: "dropped it and kept the rest of the window",
    Kind.QUARANTINE: lambda _: "left out of later batches; see quarantine.txt",
    Kind.NO_SNAPSHOTS: lambda _: "bad steps are skipped, but nothing can be repaired or rolled back",
    Kind.INTERNAL_ERROR: lambda done: (
        "gave all ranks the weights of rank 0" if done.place is Place.RANKS else "logged; training goes on"
    ),
    Kind.NATIVE_RECOVERY: lambda _: "Ultralytics went back to last.pt and repeats the epoch",
    Kind.OBSERVE_ONLY: lambda _: "this training runs as stock and is only observed",
}

_CLAUSES: dict[Remedy, Callable[[Incident], str]] = {
    Remedy.SKIPPED: lambda _: "skipped the step",
    Remedy.STATISTICS_RESTORED: lambda done: (
        "put the batch-norm statistics back" + ("" if Remedy.SKIPPED in done.remedies else " and took the step")
    ),
    Remedy.REPAIRED: lambda done: f"repaired {done.repaired} tensors",
    Remedy.ROLLED_BACK: lambda done: f"went back to the snapshot of step {done.snapshot} ({done.undone} steps lost)",
    Remedy.LR_LOWERED: lambda done: f"lowered the learning rate to x{done.lr_factor:.3g}",
    Remedy.PRECISION_RAISED: lambda done: f"raised the precision to {done.precision}",
    Remedy.STOPPED: lambda _: "ended the training",
    Remedy.MICRO_BATCH_DROPPED: lambda _: "dropped its gradients and put the batch-norm statistics back",
    Remedy.LEFT_TO_ULTRALYTICS: lambda _: "left the rest to Ultralytics' own recovery: there is no snapshot",
    Remedy.OBSERVED: lambda _: "observed only: recovery.enabled is off",
}
