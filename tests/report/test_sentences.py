"""Sentences are for people: the report comes to the same when they say nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import INFO, bad, row, write
from yolo_gradsafe.report.incident_groups import incident_groups
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.telemetry import Incident, RunPaths
from yolo_gradsafe.telemetry.schema import Finding, Kind, Place, Remedy, Shortfall
from yolo_gradsafe.telemetry.sentences import action, capitalized, message, shortfall

SENTENCES = ("message", "action", "culprit")

FACTS: list[dict[str, Any]] = [
    {"kind": Kind.BAD_BATCH, "place": Place.LOSS, "items": {"box_loss": math.nan}, "remedies": (Remedy.SKIPPED,)},
    {"kind": Kind.BAD_BATCH, "place": Place.GRADIENTS, "tensors": ["a.weight"], "tensor_count": 3, "rank": 1},
    {"kind": Kind.BAD_BATCH, "place": Place.WINDOW},
    {"kind": Kind.BAD_BATCH, "place": Place.OPEN_WINDOW, "remedies": (Remedy.MICRO_BATCH_DROPPED,)},
    {
        "kind": Kind.DIVERGING,
        "place": Place.LOSS,
        "loss": 1e6,
        "remedies": (Remedy.SKIPPED, Remedy.ROLLED_BACK, Remedy.LR_LOWERED),
        "snapshot": 3,
        "undone": 7,
        "lr_factor": 0.1,
    },
    {"kind": Kind.ROLLBACK, "remedies": (Remedy.ROLLED_BACK,), "snapshot": 3, "undone": 7, "steps_lost": 7},
    {"kind": Kind.LR_BACKOFF, "remedies": (Remedy.LR_LOWERED,), "lr_factor": 0.1},
    {"kind": Kind.LR_RAMP, "remedies": (Remedy.LR_RESTORED,)},
    *({"kind": Kind.POISONED, "place": Place.BATCHNORM, "remedies": (Remedy.STATISTICS_RESTORED,)} for _ in range(3)),
    {"kind": Kind.POISONED, "place": Place.STATE, "remedies": (Remedy.SKIPPED, Remedy.LEFT_TO_ULTRALYTICS)},
    {"kind": Kind.HEALED, "tensors": ["model/a"], "tensor_count": 5, "repaired": 5, "snapshot": 3},
    {"kind": Kind.HEALED, "place": Place.RANKS, "remedies": (Remedy.RANKS_SYNCED,)},
    {"kind": Kind.PRECISION, "remedies": (Remedy.PRECISION_RAISED,), "precision": "bf16", "precision_before": "fp16"},
    {"kind": Kind.PRECISION, "remedies": (Remedy.PRECISION_LOWERED,), "precision": "fp16", "precision_before": "bf16"},
    {"kind": Kind.PRECISION, "place": Place.VALIDATION, "precision": "fp32", "precision_before": "fp16"},
    {"kind": Kind.STALLED, "stages": ["neck"]},
    {"kind": Kind.NORM_OVERFLOW, "grad_norm": 1e20, "remedies": (Remedy.CLIPPED,)},
    {"kind": Kind.STOP, "budget": "max_skips", "count": 501, "remedies": (Remedy.STOPPED,)},
    {"kind": Kind.QUARANTINE, "images": ["/data/a.jpg"]},
    {"kind": Kind.ISOLATED, "batch": 4},
    {"kind": Kind.NO_SNAPSHOTS, "detail": "3.1 GiB each, 4 GiB allowed"},
    {"kind": Kind.INTERNAL_ERROR, "detail": "draw a picture: OSError: disk full"},
    {"kind": Kind.NATIVE_RECOVERY},
    {"kind": Kind.VALIDATION, "place": Place.VALIDATION, "term": "val/cls_loss"},
    {"kind": Kind.BATCHNORM_LAG, "place": Place.VALIDATION, "remedies": (Remedy.BATCHNORM_MOMENTUM_RAISED,)},
    {"kind": Kind.OBSERVE_ONLY, "detail": "the loop is another one"},
]  # fmt: skip


def recorded(run: Path, said: bool) -> Path:
    """Write a run with an incident of every kind; its sentences say something or not."""
    incidents = []
    for step, facts in enumerate(FACTS, 30):
        made = Incident(**{"epoch": step // 10 + 1, "step": step, "batch": step % 10 + 1, **facts})
        told = {"message": message(made), "action": action(made), "culprit": "a.jpg holds a NaN"}
        incidents.append(replace(made, **(told if said else dict.fromkeys(SENTENCES, "x"))))
    info = replace(INFO, amp="fp16", optimizer="SGD")
    write(run, 120, lambda step: bad(step) if step == 30 else row(step), incidents, info)
    RunPaths(run).run.joinpath("args.yaml").write_text("lr0: 0.01\noptimizer: SGD\nwarmup_epochs: 1\n")
    return run


def without_sentences(run: Path) -> dict[str, Any]:
    """Return the summary but for the sentences of its incidents."""
    values: dict[str, Any] = json.loads(summarize(run).model_dump_json())
    for incident in values["incidents"]:
        for name in (*SENTENCES, "time"):
            incident.pop(name)
    return values


def test_summary_and_advice_are_the_same_without_sentences(tmp_path):
    told, silent = recorded(tmp_path / "told", True), recorded(tmp_path / "silent", False)
    assert without_sentences(told) == without_sentences(silent)
    assert len(summarize(told).advice) >= 4, "the run is sick enough for several rules"


def test_incidents_are_grouped_the_same_without_sentences(tmp_path):
    def shape(run: Path) -> list[tuple[Any, ...]]:
        groups = incident_groups(summarize(run).incidents)
        return [(g.main.step, g.main.kind, [d.kind for d in g.done], g.is_trouble) for g in groups]

    told = shape(recorded(tmp_path / "told", True))
    assert told == shape(recorded(tmp_path / "silent", False))
    assert not all(trouble for *_, trouble in told), "good news are no trouble"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_its_sentences(kind):
    facts = next(facts for facts in FACTS if facts["kind"] is kind)
    made = Incident(**facts)
    assert message(made).strip()
    assert action(replace(made, remedies=made.remedies or (Remedy.SKIPPED,))).strip()


OF_OTHERS = {Remedy.LR_RESTORED, Remedy.PRECISION_LOWERED, Remedy.QUARANTINED, Remedy.CLIPPED, Remedy.RANKS_SYNCED}
"""Remedies that are an incident of their own, never a clause of a bad step's."""


@pytest.mark.parametrize("remedy", sorted(set(Remedy) - OF_OTHERS))
def test_every_remedy_of_a_bad_step_has_its_words(remedy):
    assert action(Incident(Kind.BAD_BATCH, remedies=(remedy,), precision="bf16")).strip()


@pytest.mark.parametrize("reason", Shortfall)
@pytest.mark.parametrize("names", [(), ("box_loss",), ("box_loss", "cls_loss"), ("a", "b", "c", "d")])
def test_every_reason_not_to_have_learned_has_its_sentence(reason, names):
    said = shortfall(Finding(reason, names or ("validation",), 13.0, 50.0, 3))
    assert said.strip()
    assert "nan" not in said
    assert not said.endswith(".")


@pytest.mark.parametrize(("text", "sentence"), [
    ("the loss was nan", "The loss was nan"),
    ("yes: 12 steps", "Yes: 12 steps"),
    ("box_loss was 0", "box_loss was 0"),
    ("lr0=0.3 is too high", "lr0=0.3 is too high"),
    ("mAP50 0.9", "mAP50 0.9"),
    ("pose mAP50", "Pose mAP50"),
    ("", ""),
])  # fmt: skip
def test_a_sentence_begins_with_a_capital_letter_unless_it_is_a_name(text, sentence):
    assert capitalized(text) == sentence
