"""The incidents as cards: when, what, the culprit with its picture, what was done, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yolo_gradsafe.report.incident_groups import IncidentGroup, incident_groups
from yolo_gradsafe.report.page.pictures import Album
from yolo_gradsafe.report.parts import IncidentEntry, Number

__all__ = ["LABELS", "MOST", "Card", "Cards", "cards", "label"]

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
    "observe_only": ("Observed only", "warn"),
    "lr_ramp": ("Learning rate raised again", "good"),
}
"""Name and tone of the kinds of incident."""


@dataclass(frozen=True)
class Card:
    """One group of incidents, in words."""

    kind: str
    label: str
    tone: str
    place: str
    message: str
    open: bool
    facts: list[tuple[str, str]]
    done: list[str]
    images: list[str]
    picture: str
    """As a data URI; empty where there is none."""
    link: str
    """Where the picture lies, relative to the page; empty where there is none."""
    step: int


@dataclass(frozen=True)
class Cards:
    """The cards, and what was left out of them."""

    shown: list[Card] = field(default_factory=list)
    more: int = 0
    kinds: list[tuple[str, str, int]] = field(default_factory=list)
    """Kind, label and count, the most frequent first."""


def cards(incidents: Sequence[IncidentEntry], run: Path) -> Cards:
    """Return the cards of a run's incidents, in order.

    Args:
        incidents: As they were recorded.
        run: The run's folder, in which the pictures lie.
    """
    found = incident_groups(incidents)
    album = Album(run)
    shown = [_card(group, album, number < OPEN) for number, group in enumerate(found[:MOST])]
    counts: dict[str, int] = {}
    for card in shown:
        counts[card.kind] = counts.get(card.kind, 0) + 1
    kinds = sorted(((kind, label(kind), count) for kind, count in counts.items()), key=lambda item: -item[2])
    return Cards(shown, len(found) - len(shown), kinds)


def label(kind: str) -> str:
    """Return the name of a kind for people; of an unknown one, the word itself."""
    return LABELS.get(kind, (kind.replace("_", " ").capitalize(), ""))[0]


def _card(group: IncidentGroup, album: Album, is_open: bool) -> Card:
    main, remedies = group.main, group.remedies
    everything = [main, *remedies]
    name = next((entry.picture for entry in everything if entry.picture), "")
    data = album.data(name)
    return Card(
        kind=main.kind,
        label=label(main.kind),
        tone=LABELS.get(main.kind, ("", "warn"))[1],
        place=f"epoch {main.epoch}, batch {main.batch}, step {main.step:,}",
        message=main.message,
        open=is_open,
        facts=_facts(everything),
        done=[_sentence(main.action), *(f"{label(entry.kind)}: {entry.action}" for entry in group.done[1:])],
        images=[image for entry in everything for image in entry.images],
        picture=data,
        link=album.link(name),
        step=main.step,
    )


def _facts(entries: Sequence[IncidentEntry]) -> list[tuple[str, str]]:
    """Return what is known of a group, by name; what was not recorded is left out."""
    main = entries[0]
    lost = sum(entry.steps_lost for entry in entries)
    items = ", ".join(f"{name} {_short(value)}" for name, value in main.items.items())
    facts = {
        "Culprit": next((entry.culprit for entry in entries if entry.culprit), ""),
        "Cause": next((entry.cause for entry in entries if entry.cause), ""),
        "Layer": next((entry.layer for entry in entries if entry.layer), ""),
        "Loss term": next((entry.term for entry in entries if entry.term), ""),
        "Cost": f"{lost:,} step{'s' * (lost != 1)} lost" if lost else "",
        "Loss": f"{_short(main.loss)}{f' ({items})' if items else ''}" if items or main.loss != "nan" else "",
        "Gradient norm": _short(main.grad_norm) if main.items or main.grad_norm != "nan" else "",
        "AMP scale": _short(main.amp_scale) if main.amp_scale != 1.0 else "",
        "Tensors": ", ".join(main.tensors),
        "Time": main.time.replace("T", " "),
    }
    return [(name, value) for name, value in facts.items() if value]


def _short(value: Number) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
