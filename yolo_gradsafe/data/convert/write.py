"""Writing a training set: label files, links to the images, the data YAML, and the list of what was left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from multiprocessing.pool import ThreadPool
from pathlib import Path

import yaml

from yolo_gradsafe.data.convert.flip import flip_order
from yolo_gradsafe.data.convert.left_out import list_left_out
from yolo_gradsafe.data.convert.links import Names, link
from yolo_gradsafe.data.convert.usable import LeftOut, label_row
from yolo_gradsafe.data.examine import disagree
from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.health import THREADS
from yolo_gradsafe.data.kinds import KINDS
from yolo_gradsafe.data.read.files import reason
from yolo_gradsafe.data.read.header import peek
from yolo_gradsafe.data.read.source import Item, Source
from yolo_gradsafe.data.tally import clean

__all__ = ["LEFT_OUT", "SUMMARY", "write_set"]

LEFT_OUT, SUMMARY = "left_out.csv", "conversion.json"
FATAL = ("json_syntax", "path_missing")
"""Findings after which there is nothing to write."""
ONE_SET = (
    "validation runs on the training images, as only one JSON was given: its metrics flatter. Name two in a YAML "
    "(train: a.json, val: b.json), or hold out a share of one (train: a.json, split: 0.1)"
)
NO_FLIP = "the names of the keypoints do not tell left from right: without flip_idx Ultralytics turns off flips"


def write_set(source: Source, folder: Path, home: Path, task: str, split: float | None) -> str:
    """Write a set.

    Args:
        source: The set, read from COCO JSON.
        folder: Where it is written.
        home: Where it will be moved to.
        task: ``detect`` or ``pose``.
        split: Share of the training images that is held out where there is no validation set.

    Returns:
        Why nothing of it can be trained on; empty when all is well.
    """
    for one in source.found:
        if one.kind in FATAL:
            return clean(one.message)
    pose = task == "pose"
    classes = _classes(source, pose)
    if pose and (not source.layout.points or not classes):
        return "no category has keypoints, and no annotation either; pose needs them"
    left = [one for one in source.found if KINDS[one.kind].severity == "error" or one.kind == "crowd"]
    missing = sorted({one.image for one in left if one.kind == "image_missing"})
    splits = _splits(source, split)
    objects, names = Counter[str](), Names()
    images = Counter[str]()
    for name, items in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / name).mkdir(parents=True)
        with ThreadPool(THREADS) as pool:
            states = pool.imap(_state, items, chunksize=16)
            for item, state in zip(items, states, strict=True):
                if state is not None:
                    left.append(state)
                    continue
                lines, dropped = _lines(item, source, classes, pose)
                left += dropped
                file = names.fresh(item.name)
                link(item.image, folder / "images" / name / file)
                label = folder / "labels" / name / f"{file.rpartition('.')[0]}.txt"
                label.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                objects[name] += len(lines)
                images[name] += 1
    if not objects["train"]:
        first = f": {left[0].message}" if left else ""
        return f"no object in the training images can be used; {len(left)} entries were left out{clean(first)}"
    flip = _flip(source, classes) if pose else None
    (folder / "data.yaml").write_text(_yaml(source, home, splits, classes, pose, flip), encoding="utf-8")
    list_left_out(left, folder / LEFT_OUT)
    summary = {
        "schema_version": 1,
        "sources": [clean(str(path.absolute())) for path in source.files],
        "images": sum(images.values()),
        "objects": sum(objects.values()),
        "left_out": dict(Counter(one.kind for one in left)),
        "missing": [clean(image) for image in missing],
        "notes": _notes(source, home, splits, images, objects, left, pose and flip is None),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return ""


def _classes(source: Source, pose: bool) -> dict[int, int]:
    """Return the classes that are used, each with its number in the label files: for pose those with keypoints."""
    named = [k for k, points in enumerate(source.key_points) if points]
    used = named if pose and named else range(len(source.key_points))
    return {k: index for index, k in enumerate(used)}


def _splits(source: Source, share: float | None) -> dict[str, list[Item]]:
    """Return the images by split; without a validation set a share is held out, the same every time."""
    splits = dict(source.splits)
    if share is None or splits.get("val") or len(splits.get("train", ())) < 2:
        return splits
    order = sorted(splits["train"], key=_chance)
    count = min(max(1, round(share * len(order))), len(order) - 1)
    held = {id(item) for item in order[:count]}
    return {
        **splits,
        "train": [item for item in splits["train"] if id(item) not in held],
        "val": [item for item in splits["train"] if id(item) in held],
    }


def _chance(item: Item) -> bytes:
    """Return what orders images at random, but the same way every time."""
    return hashlib.sha256(item.name.encode("utf-8", "surrogatepass")).digest()


def _state(item: Item) -> Found | None:
    """Return why an image cannot be used, None if it can."""
    try:
        told = disagree(item, peek(item.image))
    except FileNotFoundError:
        told = [("image_missing", "a link to nothing")]
    except (OSError, ValueError) as error:
        told = [("image_unreadable", reason(error))]
    return Found(*told[0], item.image, image=item.image) if told else None


def _lines(item: Item, source: Source, classes: dict[int, int], pose: bool) -> tuple[list[str], list[Found]]:
    lines: dict[str, None] = {}
    left: list[Found] = []
    for row in item.rows:
        label = classes.get(int(row.values[0]))
        try:
            if label is None:
                raise LeftOut("keypoint_none", "its category has no keypoints")
            lines[label_row(row, label, pose)] = None  # a line that is there already is a duplicate
        except LeftOut as why:
            left.append(Found(why.kind, str(why), source.file, annotation=row.place, image=item.image))
    return list(lines), left


def _flip(source: Source, classes: dict[int, int]) -> list[int] | None:
    """Return ``flip_idx`` where the classes' keypoints agree on it."""
    names = [points for k in classes if (points := source.key_points[k])]
    longest = max(names, key=len, default=[])
    agree = all(points == longest[: len(points)] for points in names)
    return flip_order(longest) if agree and len(longest) == source.layout.points else None


def _yaml(
    source: Source,
    home: Path,
    splits: dict[str, list[Item]],
    classes: dict[int, int],
    pose: bool,
    flip: list[int] | None,
) -> str:
    values: dict[str, object] = {"path": str(home.absolute())}
    values |= {name: f"images/{name}" for name in splits}
    values.setdefault("val", values["train"])
    values["names"] = {index: clean((source.names or {})[k]) for k, index in classes.items()}
    if pose:
        values["kpt_shape"] = [source.layout.points, 3]
    if flip is not None:
        values["flip_idx"] = flip
    return "# Made by gradsafe of COCO JSON\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _notes(
    source: Source,
    home: Path,
    splits: dict[str, list[Item]],
    images: Counter[str],
    objects: Counter[str],
    left: list[Found],
    no_flip: bool,
) -> list[str]:
    """Return what a user should know, sentences; the first says what was made."""
    parts = ", ".join(f"{images[name]} {name} images with {objects[name]} objects" for name in splits)
    notes = [f"converted {clean(source.path.name)} to {home}: {parts}"]
    if left:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in left).most_common(4))
        notes.append(f"{len(left)} entries were left out ({kinds}); they are listed in {home / LEFT_OUT}")
    if "val" not in splits:
        notes.append(ONE_SET)
    elif "val" not in source.splits:
        notes.append(f"{len(splits['val'])} of the images are held out for validation, the same ones every time")
    return [*notes, NO_FLIP] if no_flip else notes
