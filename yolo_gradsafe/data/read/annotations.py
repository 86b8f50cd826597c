"""Annotations of a COCO JSON, as objects: boxes as shares of the image, classes counted from 0, keypoints filled up.

Every annotation becomes one row of an image, or one entry of what the file leaves out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolo_gradsafe.data.read.box_format import UNLIKE, BoxFormat, agreement, guess, to_corners
from yolo_gradsafe.data.read.coco_json import CocoFile, Id, number, quoted
from yolo_gradsafe.data.read.outlines import extent, rings
from yolo_gradsafe.data.read.source import Item, Layout, Row

__all__ = ["MANY_CROWDS", "OUTLINED", "Asked", "add_rows"]

Flags = npt.NDArray[np.bool_]

MANY_CROWDS = 0.1
"""Share of annotations that are crowd regions from which it is told; COCO has 1 %."""
LARGEST_SHARE = 1.0 + 1e-6
FEWEST_KEYPOINTS = 3
"""Objects with keypoints from which shares of the image are told."""
OUTLINED = ("segment", "obb")
"""Tasks whose labels are outlines."""


class Asked(NamedTuple):
    """What the user says about the annotations."""

    boxes: BoxFormat | None = None
    """How boxes are written; told by look where it is not given."""
    keep_crowds: bool = False
    """Whether crowd regions are taken as objects."""


class Taken(NamedTuple):
    """An annotation that has an image and a class."""

    place: Id
    item: Item
    label: int
    entry: dict[str, Any]
    box: list[float] | None
    """As it stands in the file; None where it is missing."""
    extent: list[float] | None
    """Corners of the outline, pixels."""
    keypoints: list[float]
    """x, y in pixels and visibility of each."""
    fault: str


def add_rows(
    file: CocoFile,
    items: Mapping[Id, Item],
    classes: Mapping[Id, int],
    layout: Layout,
    asked: Asked = Asked(),  # noqa: B008 - it is frozen
) -> None:
    """Give every image its objects, and note what is wrong with annotations that cannot be one.

    Args:
        file: The file; its findings grow.
        items: Images by their id; of the others ``file.lost`` says why they cannot be used.
        classes: Class, from 0, by the id of the category.
        layout: Keypoints an object, and the task.
        asked: What the user says about them.
    """
    taken = list(_taken(file, items, classes, layout, asked))
    _tell_crowds(file)
    if not taken:
        return
    size = np.array([one.item.size for one in taken], dtype=np.float64)
    outline = np.array([one.extent or [math.nan] * 4 for one in taken])
    outlined: Flags = ~np.isnan(outline).any(1)
    scaled = bool(outlined.any()) and float(outline[outlined].max()) <= LARGEST_SHARE
    if scaled:
        file.note("box_format", "outlines lie between 0 and 1: they are read as shares of the image")
        outline = outline * np.tile(size, 2)
    _scale_keypoints(file, taken)
    box = np.array([one.box or [math.nan] * 4 for one in taken])
    form = asked.boxes or _form(file, taken, box, size, outline)
    corners = to_corners(box, size, form)
    missing: Flags = ~np.asarray((corners[:, 2:] > corners[:, :2]).all(1))
    corners[missing & outlined] = outline[missing & outlined]
    with np.errstate(all="ignore"):
        unlike: Flags = np.asarray((agreement(corners, outline) < UNLIKE) & outlined & ~missing)
    centre = (corners[:, :2] + corners[:, 2:]) / 2 / size
    sides = (corners[:, 2:] - corners[:, :2]) / size
    shares = np.concatenate([centre, sides], axis=1).tolist()
    for index, one in enumerate(taken):
        values = shares[index]
        if missing[index] and not outlined[index]:
            derived = _around(one)
            if derived is not None:
                values = derived
            elif one.box is None:
                words = f"bbox is {quoted(one.entry.get('bbox'))}, expected 4 numbers"
                file.drop("json_structure", words, one.place, one.item.image)
                continue
        if missing[index] and (outlined[index] or values is not shares[index]):
            source = "its outline" if outlined[index] else "its keypoints"
            words = f"bbox is {quoted(one.entry.get('bbox'))}; it is taken from {source}"
            file.note("box_derived", words, one.place, one.item.image)
        if unlike[index]:
            words = f"bbox is {quoted(one.entry.get('bbox'))}, its outline spans {_corners(outline[index])}"
            file.note("box_outline", words, one.place, one.item.image)
        one.item.rows.append(_row(file, one, values, layout, scaled))


def _scale_keypoints(file: CocoFile, taken: list[Taken]) -> None:
    """Bring keypoints to pixels where a file has them as shares of the image."""
    seen = [one for one in taken if any(one.keypoints[2::3])]
    values = [value for one in seen for value in (*one.keypoints[::3], *one.keypoints[1::3])]
    if len(seen) < FEWEST_KEYPOINTS or max(values) > LARGEST_SHARE or min(values) < 0:
        return
    file.note("box_format", "keypoints lie between 0 and 1: they are read as shares of the image")
    for one in seen:
        width, height = one.item.size or (1, 1)
        one.keypoints[::3] = [value * width for value in one.keypoints[::3]]
        one.keypoints[1::3] = [value * height for value in one.keypoints[1::3]]


def _row(file: CocoFile, one: Taken, values: list[float], layout: Layout, scaled: bool) -> Row:
    width, height = one.item.size or (1, 1)
    numbers = [float(one.label), *values]
    for k in range(0, len(one.keypoints), 3):
        numbers += [one.keypoints[k] / width, one.keypoints[k + 1] / height, one.keypoints[k + 2]]
    outline = one.entry.get("segmentation") if layout.task in OUTLINED else None
    if scaled and outline is not None:
        outline = [(ring * (width, height)).ravel().tolist() for ring in rings(outline)]
    attributes = one.entry.get("attributes")
    rotation = number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    if rotation is not None and not math.isfinite(rotation):
        rotation = None
    if rotation and one.extent is None and layout.task != "obb":
        file.note("box_rotated", f"it is turned by {rotation:g} degrees", one.place, one.item.image)
    if layout.task in OUTLINED and rotation is None and not rings(outline):
        file.note("outline_missing", f"segmentation is {quoted(outline)}", one.place, one.item.image)
        outline = None
    return Row(one.place, numbers, one.fault, outline, rotation)


def _taken(
    file: CocoFile, items: Mapping[Id, Item], classes: Mapping[Id, int], layout: Layout, asked: Asked
) -> list[Taken]:
    """Return the annotations that have an image, a class and readable numbers; the others are dropped."""
    seen: set[Id] = set()
    images = {**file.images, **file.lost}
    taken = []
    for index, entry in enumerate(file.annotations):
        if not isinstance(entry, dict):
            words = f"annotations[{index}] is {quoted(entry)}, expected an object"
            file.drop("json_structure", words, f"annotations[{index}]")
            continue
        known = entry.get("id")
        place = known if type(known) is int and abs(known) < 2**63 else _place(known, index)
        if place in seen:
            file.note("annotation_id_duplicate", f"annotation id {place} is given twice", place)
        seen.add(place)
        image, category = file.key(entry.get("image_id"), images), file.key(entry.get("category_id"), classes)
        if image is None or image not in images:
            file.drop("image_unknown", f"image_id {quoted(entry.get('image_id'))} is not among the images", place)
            continue
        item = items.get(image)
        if item is None:
            why = file.lost[image]
            file.left.append(why._replace(annotation=place))
            continue
        if category is None or category not in classes:
            words = f"category_id {quoted(entry.get('category_id'))} is not among the categories"
            file.drop("category_unknown", words, place, item.image)
        elif classes[category] < 0:
            words = f"category_id {category} belongs to two categories"
            file.drop("category_duplicate", words, place, item.image)
        elif (crowd := _crowd(file, entry)) is None:
            words = f"iscrowd is {quoted(entry.get('iscrowd'))}, expected 0 or 1"
            file.drop("json_structure", words, place, item.image)
        elif crowd and not asked.keep_crowds:
            file.drop("crowd", "a crowd region", place, item.image)
        else:
            one = _numbers(file, entry, place, item, classes[category], layout)
            taken += [] if one is None else [one]
    return taken


def _place(known: object, index: int) -> Id:
    """Return what an annotation is called: its id, or its place in the file."""
    if isinstance(known, float) and known.is_integer() and abs(known) < 2**63:
        return int(known)
    return known if isinstance(known, str) and known else f"annotations[{index}]"


def _crowd(file: CocoFile, entry: dict[str, Any]) -> bool | None:
    """Return ``iscrowd``, None where it is neither yes nor no."""
    given = entry.get("iscrowd")
    if given in (None, 0, 1):
        return bool(given)
    words = {"false": False, "true": True, "": False}
    if isinstance(given, str) and given.strip().casefold() in words:
        return words[given.strip().casefold()]
    values = file.numbers([given])
    return None if values is None or values[0] not in (0.0, 1.0) else bool(values[0])


def _numbers(file: CocoFile, entry: dict[str, Any], place: Id, item: Item, label: int, layout: Layout) -> Taken | None:
    given = entry.get("bbox")
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
        given = given[0]
    elif isinstance(given, str):
        given = re.split(r"[\s,;]+", given.strip(" \t\n[]()"))
    box = file.numbers(given) if isinstance(given, list) and len(given) == 4 else None
    if box is None and given not in (None, []):
        file.drop("json_structure", f"bbox is {quoted(entry['bbox'])}, expected 4 numbers", place, item.image)
        return None
    if box is not None and not (math.isfinite(sum(box)) or all(map(math.isfinite, box))):
        file.drop("label_nonfinite", f"bbox is {quoted(entry['bbox'])}", place, item.image)
        return None
    if box is not None and max(map(abs, box)) > 1e12:
        file.drop("box_range", f"bbox is {quoted(entry['bbox'])}", place, item.image)
        return None
    keypoints, fault = _keypoints(file, entry, layout.points)
    if fault and layout.task in (None, "pose"):
        file.note("keypoint_syntax", fault, place, item.image)
    if keypoints and not fault:
        _check_area(file, entry, keypoints, place, item)
    segmentation = entry.get("segmentation")
    corners = extent(segmentation) if segmentation else None
    return Taken(place, item, label, entry, box, corners, keypoints, fault)


def _keypoints(file: CocoFile, entry: dict[str, Any], points: int) -> tuple[list[float], str]:
    """Return x, y and visibility of ``points`` keypoints, zero where there are fewer; and why they cannot be used.

    They are taken flat or with a list a keypoint, and with x and y alone, which then count as visible.
    """
    none = [0.0] * (3 * points)
    given = entry.get("keypoints")
    if not points or given is None or given == []:
        return none, ""
    wrong = f"keypoints is {quoted(given)}, expected {3 * points} numbers"
    if not isinstance(given, list):
        return none, wrong
    dims = 3
    if all(isinstance(point, list) for point in given):
        lengths = {len(point) for point in given}
        dims = lengths.pop() if len(lengths) == 1 else 0
        given = [value for point in given for value in point]
    elif len(given) == 2 * points and not _flags(given[2::3]):
        dims = 2
    if dims not in (2, 3) or len(given) % dims or len(given) > dims * points:
        return none, wrong
    given = [0 if value is None else value for value in given]
    numbers = file.numbers(given)
    if numbers is None:
        return none, wrong
    if dims == 2:
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        numbers = [value for x, y in pairs for value in (x, y, 2.0 if x or y else 0.0)]
    if not math.isfinite(sum(numbers)):
        for k in range(0, len(numbers), 3):
            if numbers[k + 2] == 0:
                numbers[k : k + 2] = 0.0, 0.0
        if not all(map(math.isfinite, numbers)):
            return none, f"keypoints is {quoted(entry['keypoints'])}: not all are finite"
    if max(map(abs, numbers), default=0) > 1e12:
        return none, f"keypoints is {quoted(entry['keypoints'])}: they are far outside of any image"
    return numbers + none[len(numbers) :], ""


def _flags(values: list[Any]) -> bool:
    return all(type(value) in (int, float) and value in (0, 1, 2) for value in values)


def _check_area(file: CocoFile, entry: dict[str, Any], keypoints: list[float], place: Id, item: Item) -> None:
    area = number(entry.get("area"))
    if area is not None and not 0 < area < math.inf and any(keypoints[2::3]):
        file.note("area", f"area is {area:g}", place, item.image)


def _around(one: Taken) -> list[float] | None:
    """Return the box around labelled keypoints, shares of the image; None where they span none."""
    seen = [k for k in range(0, len(one.keypoints), 3) if one.keypoints[k + 2] > 0]
    if len(seen) < 2 or one.item.size is None:
        return None
    (width, height), x, y = one.item.size, [one.keypoints[k] for k in seen], [one.keypoints[k + 1] for k in seen]
    w, h = max(x) - min(x), max(y) - min(y)
    if min(w, h) <= 0:
        return None
    return [(max(x) + min(x)) / 2 / width, (max(y) + min(y)) / 2 / height, w / width, h / height]


def _form(file: CocoFile, taken: list[Taken], box: np.ndarray, size: np.ndarray, outline: np.ndarray) -> BoxFormat:
    """Return how the boxes of the file are written; where it only looks like another form than COCO's, that is told."""
    known = ~np.isnan(box).any(1)
    area = np.array([math.nan if (value := number(one.entry.get("area"))) is None else value for one in taken])
    with np.errstate(all="ignore"):
        told = guess(box[known], size[known], outline[known], area[known])
    if told is None:
        return "coco"
    if told.proven:
        file.note("box_format", f"{told.message}; they are read so")
        return told.format
    file.note("box_format_unclear", told.message)
    return "coco"


def _tell_crowds(file: CocoFile) -> None:
    crowds = sum(one.kind == "crowd" for one in file.left)
    if crowds > MANY_CROWDS * len(file.annotations):
        file.note("crowds", f"{crowds} of {len(file.annotations)} annotations are crowd regions")


def _corners(corners: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in corners)
