"""The incidents as cards: when, what, why, the culprit with its picture, what was done, what it cost, did it help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yolo_gradsafe.report.incident_groups import IncidentGroup, incident_groups
from yolo_gradsafe.report.page.pictures import Album
from yolo_gradsafe.report.parts import IncidentEntry, Number, Outcome
from yolo_gradsafe.telemetry.schema import Cause, Remedy
from yolo_gradsafe.telemetry.sentences import capitalized, cost, held, stock

__all__ = ["LABELS", "MOST", "Card", "Cards", "cards", "label", "outcome_lines"]

MOST = 300
"""Cards at most: a browser shows that many at once without stuttering."""
OPEN = 3
"""Cards that are open at first."""

LABELS = {
    "bad_batch": ("Bad batch", "bad"),
    "poisoned": ("Poisoned state", "bad"),
    "diverging": ("Diverging", "bad"),
    "stop": ("Stopped", "bad"),
    "internal_error": ("Internal error", "bad"),
    "spike": ("Spike", "warn"),
    "stalled": ("Stalled", "warn"),
    "norm_overflow": ("Norm overflow", "warn"),
    "native_recovery": ("Ultralytics' recovery", "warn"),
    "healed": ("Healed", "warn"),
    "rollback": ("Rolled back", "warn"),
    "lr_backoff": ("Learning rate lowered", "warn"),
    "precision": ("Precision changed", "warn"),
    "isolated": ("Micro-batch dropped", "warn"),
    "quarantine": ("Quarantined", "warn"),
    "no_snapshots": ("No snapshots", "warn"),
    "validation": ("Validation not finite", "warn"),
    "batchnorm_lag": ("Statistics lagged", "warn"),
    "observe_only": ("Observed only", "warn"),
    "lr_ramp": ("Learning rate raised again", "good"),
}
"""Name and tone of the kinds of incident."""

CAUSES: dict[str, str] = {
    Cause.IMAGE: "the image file",
    Cause.LABEL: "the label",
    Cause.PREPROCESSING: "the preprocessing",
    Cause.LOSS: "the loss function",
    Cause.PRECISION: "too low a precision",
    Cause.ACTIVATIONS: "a layer of the model",
    Cause.WEIGHTS: "the weights",
    Cause.LEARNING_RATE: "the learning rate is too high for this model",
    Cause.EVERY_BATCH: "every batch fails",
    Cause.OUTLIER: "an outlier",
    Cause.TRANSIENT: "did not happen again with the same batch",
    Cause.UNKNOWN: "unknown",
}
"""The causes in words."""


@dataclass(frozen=True)
class Card:
    """One group of incidents, in words."""

    kind: str
    label: str
    tone: str
    place: str
    message: str
    open: bool
    why: str
    """What was found to be the matter; empty where it was not looked into."""
    done: list[str]
    outcome: list[tuple[str, str]]
    """What it cost, whether the remedy helped, what stock does; by name."""
    source: tuple[str, str]
    """A line of code to blame, its place and its text; empty where there is none."""
    change: Outcome | None
    """What to change; None where that is not known."""
    facts: list[tuple[str, str]]
    images: list[str]
    picture: str
    """As a data URI; empty where there is none."""
    detail: str
    """The culprit alone, cut out of the picture; empty where it is not marked."""
    link: str
    """Where the picture lies, relative to the page; empty where there is none."""
    step: int


@dataclass(frozen=True)
class Cards:
    """The cards, and what was left out of them."""

    shown: list[Card] = field(default_factory=list)
    more: int = 0
    first: int = OPEN
    """Cards that stand by themselves; the others are folded away."""
    kinds: list[tuple[str, str, int]] = field(default_factory=list)
    """Kind, label and count, the most frequent first."""


def cards(incidents: Sequence[IncidentEntry], run: Path, outcomes: Sequence[Outcome] = ()) -> Cards:
    """Return the cards of a run's incidents, in order.

    Args:
        incidents: As they were recorded.
        run: The run's folder, in which the pictures lie.
        outcomes: What came of each group of them; none of a summary of an earlier version.
    """
    found = incident_groups(incidents)
    album = Album(run)
    came = dict(enumerate(outcomes))
    shown = [_card(group, album, came.get(number), number < OPEN) for number, group in enumerate(found[:MOST])]
    counts: dict[str, int] = {}
    for card in shown:
        counts[card.kind] = counts.get(card.kind, 0) + 1
    kinds = sorted(((kind, label(kind), count) for kind, count in counts.items()), key=lambda item: -item[2])
    return Cards(shown, len(found) - len(shown), kinds=kinds)


def label(kind: str) -> str:
    """Return the name of a kind for people; of an unknown one, the word itself."""
    return LABELS.get(kind, (kind.replace("_", " ").capitalize(), ""))[0]


def outcome_lines(group: IncidentGroup, came: Outcome | None) -> list[tuple[str, str]]:
    """Return what came of a group of incidents: what it cost, whether the remedy helped, what stock does; by name."""
    if came is None or not group.is_trouble:
        return []
    lines = [("Cost", cost(came.steps_lost) or "no step")]
    if Remedy.OBSERVED not in group.main.remedies:
        lines.append(("Did it help?", capitalized(held(came.held, came.healthy_since))))
    if said := stock(came.stock):
        lines.append(("Stock Ultralytics", capitalized(said)))
    return lines


def _card(group: IncidentGroup, album: Album, came: Outcome | None, is_open: bool) -> Card:
    main, everything = group.main, group.everything
    name = _first(everything, "picture")
    data = album.data(name)
    advised = came is not None and (came.options or came.arguments or came.command)
    return Card(
        kind=main.kind,
        label=label(main.kind),
        tone=LABELS.get(main.kind, ("", "warn"))[1],
        place=f"epoch {main.epoch}, batch {main.batch}, step {main.step:,}",
        message=main.message,
        open=is_open,
        why=capitalized(_first(everything, "culprit") or CAUSES.get(group.cause, group.cause)),
        done=[capitalized(main.action), *(f"{label(entry.kind)}: {entry.action}" for entry in group.done[1:])],
        outcome=outcome_lines(group, came),
        source=(_first(everything, "source"), _first(everything, "source_text")),
        change=came if advised else None,
        facts=_facts(everything),
        images=group.images,
        picture=data,
        detail=album.detail(name) if data and len(group.images) else "",
        link=album.link(name),
        step=main.step,
    )


def _first(entries: Sequence[IncidentEntry], field: str) -> str:
    """Return what a field says in the first entry that has it."""
    return next((value for entry in entries if (value := getattr(entry, field))), "")


def _facts(entries: Sequence[IncidentEntry]) -> list[tuple[str, str]]:
    """Return what is known of a group, by name; what was not recorded is left out."""
    main = entries[0]
    items = ", ".join(f"{name} {_short(value)}" for name, value in main.items.items())
    facts = {
        "Layer": _first(entries, "layer"),
        "Loss term": _first(entries, "term"),
        "Loss": f"{_short(main.loss)}{f' ({items})' if items else ''}" if items or main.loss != "nan" else "",
        "Gradient norm": _short(main.grad_norm) if main.items or main.grad_norm != "nan" else "",
        "AMP scale": _short(main.amp_scale) if main.amp_scale != 1.0 else "",
        "Tensors": ", ".join(main.tensors),
        "Time": main.time.replace("T", " "),
    }
    return [(name, value) for name, value in facts.items() if value]


def _short(value: Number) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
