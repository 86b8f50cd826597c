"""Findings, counted as they come: how many of a kind, in how many images, and the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from yolo_gradsafe.data.findings import Finding, Found, KindCount
from yolo_gradsafe.data.kinds import KINDS, SEVERITIES

__all__ = ["Tally", "clean"]

EXAMPLES = 20
"""Findings of a kind that are kept."""


class Tally:
    """Counts findings by kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._images: dict[str, set[str]] = {}
        self._examples: dict[str, list[Found]] = {}

    def add(self, found: Iterable[Found]) -> None:
        """Count findings."""
        for one in found:
            self._counts[one.kind] = self._counts.get(one.kind, 0) + 1
            examples = self._examples.setdefault(one.kind, [])
            if len(examples) < EXAMPLES:
                examples.append(one)
            if one.image:
                self._images.setdefault(one.kind, set()).add(one.image)

    def count(self, kind: str) -> int:
        """Return the findings of a kind."""
        return self._counts.get(kind, 0)

    def kinds(self) -> list[KindCount]:
        """Return what was found by kind: errors, warnings, notes, and the most frequent of them first."""
        return sorted(self._kinds(), key=lambda kind: (SEVERITIES.index(kind.severity), -kind.count))

    def _kinds(self) -> Iterator[KindCount]:
        for name, kind in KINDS.items():
            if name in self._counts:
                yield KindCount(
                    kind=name,
                    severity=kind.severity,
                    meaning=kind.meaning,
                    remedy=kind.remedy,
                    count=self._counts[name],
                    images=len(self._images.get(name, ())),
                    examples=[_typed(found) for found in self._examples[name]],
                )


def clean(text: str) -> str:
    """Return a text that any encoding can hold: what a file's name has of bytes that are no text becomes a mark."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _typed(found: Found) -> Finding:
    annotation = clean(found.annotation) if isinstance(found.annotation, str) else found.annotation
    return Finding(
        kind=found.kind,
        message=clean(found.message),
        file=clean(found.file),
        line=found.line,
        annotation=annotation,
        image=clean(found.image),
    )
