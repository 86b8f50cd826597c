"""What to change or to do after a training without a guard, and the command that trains again with one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_gradsafe.report.advice.facts import UNPROVEN, rounded
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.report.postmortem.facts import Facts
from yolo_gradsafe.report.postmortem.record import Finding

__all__ = ["advise"]

AUTO = 0.01
"""Rate that ``optimizer=auto`` gives SGD or MuSGD; AdamW gets less."""
RAN_AWAY = {"loss_rose", "validation_absurd", "collapsed", "fell", "dipped", "batchnorm"}
NOT_FINITE = {"loss_nan", "validation_nan", "validation_zero", "loss_zero", "optimizer_state", "loss_scale"}
DAMAGED = {"damaged_last", "damaged_best"}
NAN_DATA = "A label or an image that is not finite makes the loss NaN, and labels that are not read teach nothing."
LEFT_OUT = {"mode", "task", "save_dir", "name", "project", "exist_ok", "resume", "cfg", "tracker", "model", "data"}
LEFT_OUT |= {"verbose", "plots"}
"""Arguments that belong to the run and not to what is trained."""


def advise(facts: Facts, findings: Sequence[Finding], defaults: Mapping[str, Any]) -> list[Advice]:
    """Return what to do, the most pressing first; nothing where nothing wrong is on record.

    Args:
        facts: What is on record.
        findings: What was found in it.
        defaults: Ultralytics' arguments and what they are without the user.
    """
    serious = {finding.kind for finding in findings if finding.severity != "note"}
    advice = [*_use_best(facts, serious), *_change(facts, findings, serious), *_resume(facts, serious)]
    if serious:
        changes = " ".join(one.arguments for one in advice if one.arguments)
        advice.append(
            Advice(
                rule="train_guarded",
                title="Train again with the guard.",
                evidence="results.csv and the checkpoints do not say which step, image, layer or line of code it was. "
                "A guarded training does: it skips or undoes the step and names the cause.",
                command=_command(facts, defaults, changes),
            )
        )
    return advice


def _use_best(facts: Facts, serious: set[str]) -> Iterator[Advice]:
    lost = serious & {"damaged_last", "collapsed", "validation_nan", "validation_zero", "validation_absurd"}
    best = facts.best
    accuracy = facts.accuracy
    if lost and best is not None and not best.damaged and not best.batchnorm and len(accuracy) and accuracy.max() > 0:
        yield Advice(
            rule="use_best",
            title="Use best.pt, not last.pt.",
            evidence=f"{best.file} is sound, and of the epoch with the best accuracy "
            f"({facts.accuracy_column} {accuracy.max():.3g}).",
        )


def _change(facts: Facts, findings: Sequence[Finding], serious: set[str]) -> Iterator[Advice]:
    ran_away = bool(serious & RAN_AWAY) or any(finding.kind in DAMAGED for finding in findings)
    first = min((f.epochs[0] for f in findings if f.kind in RAN_AWAY | NOT_FINITE and f.epochs), default=0)
    came_back = not any(finding.severity == "error" for finding in findings)
    if came_back and ran_away and 0 < first <= facts.warm_up < len(facts.epochs):
        longer = max(2 * facts.warm_up, facts.warm_up + 1)
        yield Advice(
            rule="warm_up_short",
            title="Warm up for longer.",
            evidence=f"It began in epoch {first}, within the warm-up of {facts.warm_up:g} epochs.",
            arguments=f"warmup_epochs={longer:g}",
        )
    elif ran_away:
        yield from _lower_rate(facts)
    data = facts.arguments.get("data")
    if serious & (NOT_FINITE | {"never_rose"}) and isinstance(data, str) and data:
        yield Advice(
            rule="check_data",
            title="Check the data.",
            evidence=NAN_DATA
            if serious & NOT_FINITE
            else "Labels that are not read, or are of other images, teach nothing.",
            command=f"gradsafe check {shlex.quote(data)}",
        )
    half = facts.arguments.get("amp") is True and facts.arguments.get("device") not in ("cpu", "mps")
    if serious & NOT_FINITE and half and not ran_away:
        yield Advice(
            rule="amp_off",
            title="Train in full precision, to see whether fp16 is too narrow.",
            evidence="Losses were not finite although training had not run away, and amp=True.",
            arguments="amp=False",
        )


def _lower_rate(facts: Facts) -> Iterator[Advice]:
    peak = facts.peak_rate
    if not (math.isfinite(peak) and peak > 0):
        return
    optimizer, evidence = "", f"The rate was up to {peak:.3g}."
    if str(facts.arguments.get("optimizer", "")).lower() == "auto":
        version = facts.last.version if facts.last is not None else ""
        momentum = "SGD" if version.startswith("8.3.") else "MuSGD"
        optimizer = f"optimizer={momentum if math.isclose(peak, AUTO, rel_tol=0.05) else 'AdamW'} "
        evidence += " optimizer=auto ignores lr0, so name the optimizer as well."
    yield Advice(
        rule="lower_rate",
        title="Lower the learning rate.",
        evidence=evidence,
        arguments=f"{optimizer}lr0={rounded(UNPROVEN * peak):g}",
    )


def _resume(facts: Facts, serious: set[str]) -> Iterator[Advice]:
    last = facts.last
    if facts.finished or last is None or last.damaged or serious & {"optimizer_state", "collapsed"} or facts.may_run:
        return
    file = shlex.quote(str(facts.run / last.file))
    yield Advice(
        rule="resume",
        title="Go on where it ended, guarded.",
        evidence=f"{last.file} is sound and was saved after epoch {last.epoch} of {facts.planned}.",
        command=f"gradsafe train model={file} resume=True",
    )


def _command(facts: Facts, defaults: Mapping[str, Any], changes: str) -> str:
    """Return the command that trains as this run did, with some arguments changed."""
    given = facts.arguments
    words = {"model": _model(facts), "data": given.get("data") or "DATA"}
    for name, value in given.items():
        if name not in LEFT_OUT and name in defaults and value != defaults[name] and value is not None:
            words[name] = value
    words |= dict(word.partition("=")[::2] for word in changes.split())
    return " ".join(["gradsafe train", *(f"{name}={shlex.quote(_written(value))}" for name, value in words.items())])


def _model(facts: Facts) -> str:
    """Return the model that training began with; of a resumed run the YAML that its model was built from."""
    model = str(facts.arguments.get("model") or "")
    built = next((one.model for one in (facts.last, facts.best) if one is not None and one.model), "")
    resumed = bool(facts.arguments.get("resume")) or Path(model).name == "last.pt"
    return (built if resumed else model) or built or "MODEL"


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
