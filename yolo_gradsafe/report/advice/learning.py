"""What to change where the model did not learn: a rule for each reason, the rate named by one of them alone.

A lower rate is advised only where it is shown to be too high. Weights that moved as in any clean run show the opposite.
"""

from __future__ import annotations

import math
from collections import Counter

from yolo_gradsafe.judge.movement import HEALTHY
from yolo_gradsafe.report.advice.amp import overflows, wider
from yolo_gradsafe.report.advice.batchnorm import lags, poisoned
from yolo_gradsafe.report.advice.data import broken_images, quarantined
from yolo_gradsafe.report.advice.facts import (
    SCALE_FREE,
    UNPROVEN,
    Facts,
    check_command,
    plural,
    report_command,
    rounded,
)
from yolo_gradsafe.report.advice.learning_rate import muon, too_high, warm_up
from yolo_gradsafe.report.advice.own_code import broken, is_to_blame
from yolo_gradsafe.report.advice.stages import vanishing
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.telemetry.schema import Cause, Finding, Shortfall
from yolo_gradsafe.telemetry.sentences import capitalized, shortfall

__all__ = [
    "branch_silent",
    "layer_died",
    "loss_zero",
    "never_rose",
    "overfitting",
    "rate",
    "rate_too_low",
    "slow",
    "steps_skipped",
    "too_few_steps",
]

USUAL_RATE = {True: 0.002, False: 0.01}
"""Ultralytics' own choice: of optimizers that divide by the gradient's size, and of others."""
MIN_STEPS_TO_LEARN = 100
"""Optimizer steps from which on a small set can be learnt."""
USUAL_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "pose": 12.0, "kobj": 1.0, "rle": 1.0}
"""Ultralytics' defaults for the weights of the losses."""
WARM_UP, SHORTEST_WARM_UP = 10, 100
"""Part of the epochs that a warm-up may take, and the batches that Ultralytics gives the shortest one."""
LONGER = 3
"""Times the epochs of a training that was too short."""
_BY_RATE = (Shortfall.RATE_TOO_HIGH, Shortfall.COLLAPSED, Shortfall.FELL, Shortfall.VALIDATION_LOSS)
_UNEXPLAINED = {Shortfall.CONSTANT_PREDICTOR, Shortfall.NEVER_ROSE}
"""Reasons that say how it went, and not why."""


def rate(facts: Facts) -> Advice | None:
    """The weights moved too far; where another rule has found out by how much, that one speaks."""
    reasons = (*_BY_RATE, Shortfall.CONSTANT_PREDICTOR) if facts.update_ratio > HEALTHY else _BY_RATE
    found = next((finding for reason in reasons if (finding := facts.because(reason))), None)
    if found is not None and found.reason == Shortfall.VALIDATION_LOSS and any(map(is_to_blame, facts.incidents)):
        return None  # the user's code fails on validation images as well
    if found is None or too_high(facts) or muon(facts) or warm_up(facts):
        return None
    if found.reason == Shortfall.FELL and facts.because(Shortfall.OVERFITTING):
        return None
    if facts.because(Shortfall.LOSS_ZERO) or (facts.because(Shortfall.TOO_FEW_STEPS) and not _proven(facts)):
        return None
    lr0 = _lower_rate(facts)
    died = facts.because(Shortfall.LAYER_DIED)
    return Advice(
        rule="rate_too_high",
        title="Start again with a lower learning rate" + (": some layers stopped learning." if died else "."),
        evidence=". ".join(capitalized(shortfall(finding)) for finding in (found, died) if finding) + ".",
        arguments=f"lr0={lr0:g}" if math.isfinite(lr0) else "",
    )


def rate_too_low(facts: Facts) -> Advice | None:
    """The weights hardly moved."""
    found = facts.because(Shortfall.RATE_TOO_LOW)
    usual = USUAL_RATE[facts.run.optimizer in SCALE_FREE]
    if found is None:
        return None
    return Advice(
        rule="rate_too_low",
        title="Raise the learning rate.",
        evidence=f"{capitalized(shortfall(found))}.",
        arguments=f"lr0={usual:g}" if _highest_rate(facts) < usual else "",
    )


def layer_died(facts: Facts) -> Advice | None:
    """A layer that learnt, and then had no gradient any more: its normalisation scales everything to zero."""
    found = facts.because(Shortfall.LAYER_DIED)
    if found is None or rate(facts):
        return None
    spoken = too_high(facts) or muon(facts) or warm_up(facts)
    lr0 = facts.peak_lr / 2
    return Advice(
        rule="layer_dead",
        title="Start again with a lower learning rate: a layer stopped learning.",
        evidence=f"{capitalized(shortfall(found))}; it had one before.",
        arguments="" if spoken or not math.isfinite(lr0) else f"lr0={rounded(lr0):g}",
    )


def too_few_steps(facts: Facts) -> Advice | None:
    """Too few optimizer steps, because of accumulation or of the number of epochs."""
    found = facts.because(Shortfall.TOO_FEW_STEPS)
    if found is None:
        return None
    batch, nbs, epochs = facts.run.batch, _nbs(facts), len(facts.results) or facts.run.epochs
    accumulates = 0 < batch < nbs
    each = facts.run.batches if accumulates else found.value / max(epochs, 1)
    needed = math.ceil(MIN_STEPS_TO_LEARN / each / 10) * 10 if each else 0
    words = [f"nbs={batch}"] if accumulates else []
    words += [f"epochs={needed}"] if needed > epochs else _beyond_warm_up(facts, found)
    why = (
        f" With nbs={nbs}, up to {round(nbs / batch)} batches of {batch} are accumulated for one step."
        if accumulates
        else ""
    )
    return Advice(
        rule="too_few_steps",
        title="Take more optimizer steps." if not found.names or needed > epochs else "Let the warm-up end in time.",
        evidence=f"There were {plural(int(found.value), 'optimizer step')} in {plural(epochs, 'epoch')}: "
        f"{shortfall(found)}.{why}",
        arguments=" ".join(words),
    )


def _beyond_warm_up(facts: Facts, found: Finding) -> list[str]:
    """Return what makes a warm-up that took the whole training end by its half."""
    each, epochs = facts.run.batches, facts.run.epochs
    if not found.names or not each:
        return []
    shorter = max(1, epochs // WARM_UP)
    least = max(shorter * each, SHORTEST_WARM_UP)
    needed = math.ceil(2 * min(found.limit, least) / each / 10) * 10
    words = [f"warmup_epochs={shorter}"] if least < found.limit else []
    return [*words, f"epochs={needed}"] if needed > epochs else words


def steps_skipped(facts: Facts) -> Advice | None:
    """Most steps were skipped, and no rule for what they failed of has spoken."""
    found = facts.because(Shortfall.STEPS_SKIPPED)
    spoken = (broken, too_high, muon, warm_up, rate, overflows, poisoned, quarantined, broken_images)
    if found is None or any(rule(facts) for rule in spoken):
        return None
    causes = Counter(incident.cause for incident in facts.incidents if incident.cause).most_common(1)
    title, arguments, command = _to_mend(facts, causes[0][0] if causes else "")
    return Advice(
        rule="steps_skipped",
        title=title,
        evidence=f"{capitalized(shortfall(found))}.",
        arguments=arguments,
        command=command,
    )


def _to_mend(facts: Facts, cause: str) -> tuple[str, str, str]:
    """Return what to do about a cause: a title, an argument, a command."""
    if cause == Cause.TRANSIENT:
        return "Check the hardware: what failed did not fail again with the same batch.", "", ""
    if cause == Cause.PRECISION:
        return "Train in a precision with a larger range.", wider(facts), ""
    if cause in (Cause.IMAGE, Cause.LABEL):
        return f"Repair the {cause}s, or take them out of the data set.", "", check_command(facts)
    lr0 = _lower_rate(facts)
    if cause in (Cause.ACTIVATIONS, Cause.WEIGHTS, Cause.OUTLIER) and math.isfinite(lr0):
        return "Start again with a lower learning rate.", f"lr0={lr0:g}", ""
    return "Look at the incidents: the cause is not known.", "", report_command(facts)


def loss_zero(facts: Facts) -> Advice | None:
    """No object was assigned to a prediction: its labels do not fit, or the loss does not see them."""
    found = facts.because(Shortfall.LOSS_ZERO)
    matched = found is not None and "box_loss" not in found.names and "box_loss" in facts.rows.columns
    return (
        None
        if found is None
        else Advice(
            rule="loss_zero",
            title="Check the loss: a part of it is 0 whatever the model predicts, although objects are matched."
            if matched
            else "Check the labels and the loss: no object is matched to a prediction.",
            evidence=f"{capitalized(shortfall(found))}.",
            command=check_command(facts),
        )
    )


def branch_silent(facts: Facts) -> Advice | None:
    """A branch that the loss does not reach, often because its weight is next to nothing."""
    found = facts.because(Shortfall.BRANCH_SILENT)
    if found is None or vanishing(facts) or facts.because(Shortfall.LOSS_ZERO):
        return None
    low = {name: usual for name, usual in USUAL_GAINS.items() if _is_low(facts.arguments.get(name), usual)}
    return Advice(
        rule="branch_silent",
        title="Restore the usual loss weight: a part of the model is not trained."
        if low
        else f"Check the loss: {found.names[0]} gets almost no gradient.",
        evidence=f"{capitalized(shortfall(found))}.",
        arguments=" ".join(f"{name}={usual:g}" for name, usual in low.items()),
    )


def overfitting(facts: Facts) -> Advice | None:
    """Training and validation images have little in common, or there are few of them."""
    found = facts.because(Shortfall.OVERFITTING)
    return (
        None
        if found is None
        else Advice(
            rule="overfitting",
            title="Use more images, and check that training and validation images are alike.",
            evidence=f"{capitalized(shortfall(found))}.",
            command=check_command(facts),
        )
    )


def slow(facts: Facts) -> Advice | None:
    """The weights moved as in any clean run, or the rate is below the usual one: the model needs more time, or pace."""
    found, clean = _unexplained(facts), facts.update_ratio <= HEALTHY
    usual = USUAL_RATE[facts.run.optimizer in SCALE_FREE]
    low = _highest_rate(facts) < usual and facts.arguments.get("optimizer") != "auto"
    if found is None or not (clean or (low and math.isnan(facts.update_ratio))):
        return None
    evidence = [capitalized(shortfall(found)) + "."]
    if clean:
        evidence.append(
            f"A step moved the weights by {100 * facts.update_ratio:.2g} % of their size at most, as in any clean run, "
            "so the guard left the learning rate alone."
        )
    if low:
        evidence.append(f"The learning rate was {_highest_rate(facts):.2g} at most; {usual:g} is usual.")
        title, arguments = "Raise the learning rate, or train for longer.", f"lr0={usual:g}"
    elif facts.run.finished:
        title, arguments = "Train for longer; if that does not help, check the labels.", f"epochs={_longer(facts)}"
    else:
        title, arguments = "Let it train on; if that does not help, check the labels.", ""
    return Advice(
        rule="slow",
        title=title,
        evidence=" ".join(evidence),
        arguments=arguments,
        command="" if low else check_command(facts),
    )


def never_rose(facts: Facts) -> Advice | None:
    """Nothing else was found: the labels are what to look at first."""
    found = _unexplained(facts)
    if found is None or slow(facts) or rate(facts):
        return None
    return Advice(
        rule="never_rose",
        title="Check the labels; if they are right, train for longer.",
        evidence=f"{capitalized(shortfall(found))}, and the records do not say why.",
        command=check_command(facts),
    )


def _unexplained(facts: Facts) -> Finding | None:
    """Return how it went where nothing on record says why; None where something does."""
    findings = facts.learning.findings
    explained = any(finding.reason not in _UNEXPLAINED for finding in findings)
    spoken = too_high(facts) or muon(facts) or warm_up(facts) or lags(facts)
    return None if explained or spoken or not facts.because(Shortfall.NEVER_ROSE) else findings[0]


def _proven(facts: Facts) -> bool:
    return bool(facts.because(Shortfall.RATE_TOO_HIGH) or facts.because(Shortfall.COLLAPSED))


def _highest_rate(facts: Facts) -> float:
    """Return the user's lr0, which a short run's schedule falls short of, or what was in force where that is more."""
    lr0 = facts.arguments.get("lr0")
    return max(facts.peak_lr, float(lr0)) if isinstance(lr0, (int, float)) else facts.peak_lr


def _lower_rate(facts: Facts) -> float:
    """Return Ultralytics' own rate where that is lower, else a part of the one that was in force."""
    usual, peak = USUAL_RATE[facts.run.optimizer in SCALE_FREE], facts.peak_lr
    return usual if usual < UNPROVEN * peak else rounded(UNPROVEN * peak)


def _longer(facts: Facts) -> int:
    return LONGER * max(facts.run.epochs, len(facts.results))


def _is_low(gain: object, usual: float) -> bool:
    return isinstance(gain, (int, float)) and 0 < gain < usual / 10


def _nbs(facts: Facts) -> int:
    nbs = facts.arguments.get("nbs")
    return nbs if isinstance(nbs, int) else 0
