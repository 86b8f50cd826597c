"""A data set as the checks see it, whatever it was read from: images, each with its objects or their file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from yolo_gradsafe.data.findings import Found

__all__ = ["Item", "Layout", "Row", "Source"]


class Row(NamedTuple):
    """One object: where it stands, and its numbers.

    ``values`` are the class, then the box's centre x, y, width and height as shares of the image, then x, y and
    visibility of each keypoint.
    """

    place: int | str
    """Line of the label file, or id of the annotation."""
    values: Sequence[float]
    fault: str = ""
    """Why its keypoints cannot be used, though its box can; empty where they can."""
    outline: Any = None
    """``segmentation`` as it stands in the JSON, kept where a task needs it; a box alone has none."""
    rotation: float | None = None
    """Degrees by which the box is turned clockwise about its centre, where the JSON says so."""


@dataclass(frozen=True)
class Layout:
    """How objects are written down."""

    classes: int | None = None
    """Number of classes, None where it is not known."""
    points: int = 0
    """Keypoints an object."""
    dims: int = 3
    """Numbers a keypoint in a label file: 2 (x, y) or 3 (x, y, visibility)."""
    task: str | None = None
    """Task that the labels are for, None where it is not known."""


@dataclass(slots=True)
class Item:
    """An image of the set."""

    image: str
    label: str = ""
    """Label file; empty where the objects come from a JSON."""
    rows: list[Row] = field(default_factory=list)
    """Its objects, where they come from a JSON."""
    size: tuple[int, int] | None = None
    """Width and height that its annotations state."""
    name: str = ""
    """Name of the image in the JSON."""
    named: str = ""
    """Label file by the path that the YAML names, where links lead elsewhere; it is not read."""


@dataclass
class Source:
    """A data set, read."""

    path: Path
    format: Literal["yolo", "coco", "folder"]
    layout: Layout = Layout()
    names: dict[int, str] | None = None
    flip_idx: object = None
    channels: int = 3
    splits: dict[str, list[Item]] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    """What was found while it was read."""
    annotations: int = 0
    """Annotations that its JSONs hold, whatever they are worth."""
    left: list[Found] = field(default_factory=list)
    """Annotations of the JSONs that are no object, each once, with the reason."""
    file: str = ""
    """File that holds the annotations or names the splits."""
    files: list[Path] = field(default_factory=list)
    """Files that it was read from, label files and images excepted."""
    key_points: list[list[str]] = field(default_factory=list)
    """Names of the keypoints of each class, where they are known."""

    @property
    def items(self) -> list[Item]:
        """All images."""
        return [item for items in self.splits.values() for item in items]

    def note(self, kind: str, message: str, file: str = "") -> None:
        """Add a finding about the set."""
        self.found.append(Found(kind, message, file or self.file))
