"""What a check found, typed and versioned: ``health.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from yolo_gradsafe.data.kinds import Severity
from yolo_gradsafe.report.console import shown
from yolo_gradsafe.report.parts import Part
from yolo_gradsafe.telemetry.recorder import write_atomically

__all__ = ["Annotations", "CheckError", "Finding", "Found", "Health", "KindCount", "Split"]


class CheckError(ValueError):
    """Data that cannot be found or a result that cannot be read; the message says which."""


class Found(NamedTuple):
    """A finding on its way; most are only counted, so it is light."""

    kind: str
    message: str
    file: str = ""
    line: int | None = None
    annotation: int | str | None = None
    image: str = ""


class Finding(Part):
    """Something that the check found."""

    kind: str = Field(description="kind of finding, one of yolo_gradsafe.data.kinds")
    message: str = Field(description="what was seen")
    file: str = Field(default="", description="file that holds it: label file, JSON, YAML or image")
    line: int | None = Field(default=None, description="line of the file, from 1")
    annotation: int | str | None = Field(default=None, description="id of the annotation in a COCO JSON")
    image: str = Field(default="", description="image that it is about")

    @property
    def place(self) -> str:
        """File with line or annotation, as editors understand it."""
        mark = f":{self.line}" if self.line is not None else ""
        return f"{self.file}{mark}" + (f" annotation {self.annotation}" if self.annotation is not None else "")


class KindCount(Part):
    """Findings of one kind."""

    kind: str = Field(description="kind of finding")
    severity: Severity = Field(description="error, warning or note")
    meaning: str = Field(description="what it does to a training")
    remedy: str = Field(default="", description="what to do about it")
    count: int = Field(description="findings of this kind")
    images: int = Field(description="images with a finding of this kind")
    examples: list[Finding] = Field(description="the first of them")


class Split(Part):
    """A part of the set."""

    images: int = Field(description="images")
    labelled: int = Field(description="images with at least one object")
    objects: int = Field(description="objects")


class Annotations(Part):
    """Where the annotations of COCO JSON go: what becomes a label, and what is left out, make up all of them."""

    task: str = Field(description="task that the labels are for")
    total: int = Field(description="annotations that the files hold")
    labels: int = Field(description="annotations that become a label")
    left_out: dict[str, int] = Field(description="annotations that are left out, by the kind of finding, most first")

    @property
    def sum(self) -> str:
        """The sum in words."""
        left = sum(self.left_out.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.left_out.items())
        return f"{self.total} annotations: {self.labels} labels, {left} left out" + (f" ({kinds})" if kinds else "")


class Health(Part):
    """The state of a data set."""

    schema_version: Literal[1] = Field(default=1, description="version of this schema")
    headline: str = Field(description="the answer in one plain sentence")
    data: str = Field(description="what was checked")
    format: Literal["yolo", "coco", "folder"] = Field(description="how it is stored")
    classes: int | None = Field(description="number of classes; null where nothing says it")
    keypoints: list[int] | None = Field(description="kpt_shape: keypoints an object, numbers a keypoint")
    splits: dict[str, Split] = Field(description="parts of the set by name")
    annotations: Annotations | None = Field(
        default=None, description="where the annotations of COCO JSON go; null for other formats and unfinished checks"
    )
    imgsz: int = Field(description="image size of the training at which boxes were checked, in pixels")
    batch: int = Field(description="batch size for which the last batch was checked")
    images_read: int = Field(description="images whose pixels were checked")
    complete: bool = Field(description="whether all labels and all images were checked")
    kinds: list[KindCount] = Field(description="what was found by kind, the worst first; empty when all is well")
    seconds: float = Field(description="seconds that the check took")

    @property
    def errors(self) -> int:
        """Findings that are errors."""
        return sum(kind.count for kind in self.kinds if kind.severity == "error")

    @property
    def warnings(self) -> int:
        """Findings that are warnings."""
        return sum(kind.count for kind in self.kinds if kind.severity == "warning")

    @property
    def warning(self) -> str:
        """One line for a log; empty where there is nothing to warn of."""
        serious = [kind for kind in self.kinds if kind.severity != "note"]
        if not serious:
            return ""
        example = next((found for kind in serious for found in kind.examples), None)
        told = f"; e.g. {example.place}: {example.message}" if example else ""
        return shown(f"data: {self.headline}{told}; all of it: gradsafe check {self.data}")

    def save(self, path: Path) -> None:
        """Write the result as strict JSON: UTF-8, no NaN or Infinity.

        Raises:
            OSError: The file cannot be written.
        """
        write_atomically(path, self.to_json() + "\n")

    def to_json(self) -> str:
        """Return the result as strict JSON; what is no Unicode in a file's name is escaped."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False)

    @classmethod
    def load(cls, path: Path) -> Health:
        """Read a result that was saved.

        Raises:
            OSError: The file cannot be read.
            CheckError: The file is not a result, or one of a later version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise CheckError(f"{path} is not a check of this version of gradsafe: {error}") from None
