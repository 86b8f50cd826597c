"""A COCO JSON (instances or keypoints), entry by entry: nothing in it is trusted to be what it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.files import read_bytes, reason
from yolo_gradsafe.data.read.foreign import name_json

__all__ = ["Category", "CocoFile", "Id", "ImageEntry", "identity", "load_json", "number", "quoted"]

LONGEST_ID = 2**63

Id = int | str


@dataclass(frozen=True, order=True)
class Category:
    """One class of the file."""

    name: str
    keypoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageEntry:
    """One image of the file."""

    id: Id
    name: str
    width: float
    height: float
    """Pixels; 0 where the file does not say."""


@dataclass
class CocoFile:
    """The entries of a file that can be used, and what is wrong with the others."""

    path: Path
    categories: dict[Id, Category] = field(default_factory=dict)
    images: dict[Id, ImageEntry] = field(default_factory=dict)
    annotations: list[Any] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    left: list[Found] = field(default_factory=list)
    """Annotations that are no object, each once, with the reason."""
    lost: dict[Id, Found] = field(default_factory=dict)
    """Images that cannot be used, and why: their annotations are left out."""
    shared: set[Id] = field(default_factory=set)
    """Ids that belong to several categories."""
    as_text: list[str] = field(default_factory=list)
    """Examples of numbers that stand as text, or ids that are not whole numbers as such."""
    _alike: dict[int, dict[int, Id]] = field(default_factory=dict)

    def note(self, kind: str, message: str, annotation: Id | None = None, image: str = "") -> None:
        """Add a finding."""
        self.found.append(Found(kind, message, str(self.path), annotation=annotation, image=image))

    def drop(self, kind: str, message: str, annotation: Id, image: str = "") -> None:
        """Add a finding about an annotation that is left out."""
        self.note(kind, message, annotation, image)
        self.left.append(self.found[-1])

    def lose(self, image: Id, kind: str, message: str, path: str = "") -> None:
        """Add a finding about an image that cannot be used."""
        self.note(kind, message, image=path)
        self.lost[image] = self.found[-1]

    def key(self, value: object, known: Mapping[Id, object]) -> Id | None:
        """Return the id among the known ones that a value means: ``7``, ``7.0`` and ``"7"`` mean the same."""
        if type(value) is int and value in known:
            return value
        name = identity(value)
        if name is None or name in known:
            if isinstance(value, float) and name is not None:
                self.as_text.append(f"the id {value!r}")
            return name
        if id(known) not in self._alike:
            self._alike[id(known)] = _by_number(known)
        whole = _whole(name)
        other = None if whole is None else self._alike[id(known)].get(whole)
        if other is not None:
            self.as_text.append(f"the id {value!r} for {other!r}")
        return other

    def numbers(self, values: list[Any]) -> list[float] | None:
        """Return numbers, those that stand as text too; None where one of them is something else."""
        if all(type(value) is float for value in values):
            return list(values)
        result = [number(value) for value in values]
        if None in result:
            result = [_read(value) if one is None else one for one, value in zip(result, values, strict=True)]
            if None in result:
                return None
            self.as_text.append(quoted(values))
        return [value for value in result if value is not None]


def load_json(path: Path, data: bytes | None = None) -> CocoFile:
    """Read a file; one that cannot be read has a finding and no entries."""
    file = CocoFile(path)
    try:
        values = json.loads((read_bytes(str(path)) if data is None else data).decode("utf-8-sig"))
    except OSError as error:
        file.note("json_syntax", reason(error))
    except json.JSONDecodeError as error:
        file.found.append(Found("json_syntax", f"not JSON: {error.msg}, column {error.colno}", str(path), error.lineno))
    except (ValueError, RecursionError) as error:
        file.note("json_syntax", f"not JSON: {error}")
    else:
        if foreign := name_json(values):
            file.note("foreign_format", foreign)
        elif isinstance(values, dict):
            _categories(file, values.get("categories"))
            _images(file, values.get("images"))
            file.annotations = list(_list(file, "annotations", values.get("annotations")))
        else:
            file.note(
                "json_structure", f"expected an object with images, annotations and categories, got {quoted(values)}"
            )
    return file


def identity(value: object) -> Id | None:
    """Return an id that can be looked up, None for anything else; a whole float is a whole number."""
    if isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else repr(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    return str(value)[:40] if isinstance(value, int) and abs(value) >= LONGEST_ID else value


def number(value: object) -> float | None:
    """Return a number as such, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def quoted(value: object) -> str:
    """Return a value as it stands in the file, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _read(value: object) -> float | None:
    """Return the number that a text is, None where it is none."""
    if not isinstance(value, str) or not value.isascii() or "_" in value:
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _whole(name: Id) -> int | None:
    """Return an id as a whole number, None where it is none."""
    if isinstance(name, int):
        return name
    text = name.strip()
    plain = text.removeprefix("-").removesuffix(".0")
    return int(text.removesuffix(".0")) if len(plain) < 19 and plain.isascii() and plain.isdigit() else None


def _by_number(known: Mapping[Id, object]) -> dict[int, Id]:
    """Return ids by the number that they mean; two that mean the same are left out."""
    result: dict[int, Id] = {}
    twice = set()
    for name in known:
        whole = _whole(name)
        if whole is not None:
            twice |= {whole} & result.keys()
            result[whole] = name
    return {whole: name for whole, name in result.items() if whole not in twice}


def _list(file: CocoFile, key: str, value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    missing = f"'{key}' is missing" if value is None else f"'{key}' is {quoted(value)}, expected a list"
    file.note("json_structure", missing)
    return []


def _entries(file: CocoFile, key: str, values: object) -> Iterator[tuple[Id, dict[str, Any]]]:
    """Yield the entries of a list that have an id."""
    for index, entry in enumerate(_list(file, key, values)):
        if not isinstance(entry, dict):
            file.note("json_structure", f"{key}[{index}] is {quoted(entry)}, expected an object")
        elif (name := identity(entry.get("id"))) is None:
            file.note("json_structure", f"{key}[{index}] has the id {quoted(entry.get('id'))}, expected a number")
        else:
            yield name, entry


def _categories(file: CocoFile, values: object) -> None:
    for name, entry in _entries(file, "categories", values):
        points, label = entry.get("keypoints"), entry.get("name")
        words = tuple(map(str, points)) if isinstance(points, list) else ()
        category = Category(str(name) if label is None else str(label), words)
        if name in file.categories and file.categories[name].name != category.name:
            other = file.categories[name].name
            file.shared.add(name)
            file.note("category_duplicate", f"the id {name} belongs to '{other}' and to '{category.name}'")
        file.categories.setdefault(name, category)


def _images(file: CocoFile, values: object) -> None:
    for name, entry in _entries(file, "images", values):
        # LVIS gives the address alone, COCO Annotator a path beside a file_name.
        path = next((entry[key] for key in ("file_name", "path", "coco_url") if entry.get(key)), None)
        if not isinstance(path, str) or "\0" in path:
            message = f"image {name} has the file_name {quoted(path)}, expected a name"
            file.lose(name, "json_structure", message)
            continue
        sides = [file.numbers([entry.get(side)]) or [0.0] for side in ("width", "height")]
        width, height = (side if 0 < side < math.inf else 0.0 for (side,) in sides)
        image = ImageEntry(name, path, width, height)
        before = file.images.setdefault(name, image)
        if before != image:
            words = (
                f"the image id {name} belongs to '{before.name}' and to '{path}': which of them is meant is not known"
            )
            file.lose(name, "image_id_duplicate", words)
