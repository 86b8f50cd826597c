"""Writing a training set: label files, links to the images, the data YAML, and the list of what was left out."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from multiprocessing.pool import ThreadPool
from pathlib import Path

import yaml

from yolo_gradsafe.data.convert.flip import flip_order
from yolo_gradsafe.data.convert.links import Names, link
from yolo_gradsafe.data.examine import disagree
from yolo_gradsafe.data.findings import Annotations, Found
from yolo_gradsafe.data.health import THREADS
from yolo_gradsafe.data.kinds import KINDS
from yolo_gradsafe.data.label_row import FATAL, lines, used_classes
from yolo_gradsafe.data.read.files import reason
from yolo_gradsafe.data.read.header import peek
from yolo_gradsafe.data.read.source import Item, Source
from yolo_gradsafe.data.tally import clean

__all__ = ["LEFT_OUT", "SUMMARY", "write_set"]

LEFT_OUT, SUMMARY = "left_out.csv", "conversion.json"
ONE_SET = (
    "validation runs on the training images, as only one JSON was given: its metrics look too good. Name two in a YAML "
    "(train: a.json, val: b.json), or use a share of one for validation (train: a.json, split: 0.1)"
)
NO_FLIP = "the names of the keypoints do not show left and right: without flip_idx Ultralytics turns off flips"


def write_set(source: Source, folder: Path, home: Path, task: str, split: float | None) -> str:
    """Write a set.

    Args:
        source: The set, read from COCO JSON.
        folder: Where it is written.
        home: Where it will be moved to.
        task: One of ``TASKS``.
        split: Share of the training images that is held out where there is no validation set.

    Returns:
        Why nothing of it can be trained on; empty when all is well.
    """
    classes = used_classes(source, task)
    if problem := _problem(source):
        return clean(problem)
    left = [one for one in source.found if KINDS[one.kind].severity == "error" and one.annotation is None]
    left += source.left
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
                    left += [state, *(state._replace(annotation=row.place) for row in item.rows)]
                    continue
                written, dropped = lines(item, source, classes, task)
                left += dropped
                file = names.fresh(item.name)
                link(item.image, folder / "images" / name / file)
                label = folder / "labels" / name / f"{file.rpartition('.')[0]}.txt"
                label.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
                objects[name] += len(written)
                images[name] += 1
    told = Annotations(
        task=task,
        total=source.annotations,
        labels=sum(objects.values()),
        left_out=dict(Counter(one.kind for one in left if one.annotation is not None).most_common()),
    )
    if not objects["train"]:
        return f"no object in the training images can be used; {told.sum}{clean(_commonest(left))}"
    flip = _flip(source, classes) if task == "pose" else None
    (folder / "data.yaml").write_text(_yaml(source, home, splits, classes, task, flip), encoding="utf-8")
    _list_left_out(left, folder / LEFT_OUT)
    notes = _notes(source, home, splits, images, objects)
    notes[0] += f"; {told.sum}"
    if left:
        notes.insert(1, _left_out(left, home))
    notes += _warnings(source, task == "pose" and flip is None)
    summary = {
        "schema_version": 1,
        "sources": [clean(str(path.absolute())) for path in source.files],
        "images": sum(images.values()),
        "objects": told.labels,
        "annotations": told.total,
        "left_out": dict(Counter(one.kind for one in left)),
        "missing": _awaited(source, left),
        "notes": notes,
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return ""


def _problem(source: Source) -> str:
    """Return why nothing of a set can be trained on; empty where something can."""
    for kind in FATAL:
        for one in source.found:
            if one.kind == kind:
                return one.message if kind == "foreign_format" else f"{one.message}; {KINDS[kind].remedy}"
    return ""


def _awaited(source: Source, left: list[Found]) -> list[str]:
    """Return where images that are missing would be found: when one comes, the set is converted anew."""
    missing = {one.image for one in left if one.kind == "image_missing"}
    folders = list(dict.fromkeys(os.path.dirname(item.image) for item in source.items))[:4]
    names = {re.split(r"[\\/]", image)[-1] for image in missing}
    return sorted(map(clean, missing | {os.path.join(folder, name) for folder in folders for name in names}))


def _commonest(left: list[Found]) -> str:
    """Return the first message of the commonest reason."""
    if not left:
        return ""
    kind = Counter(one.kind for one in left).most_common(1)[0][0]
    first = next(one for one in left if one.kind == kind)
    return f"; {first.message}: {KINDS['crowds' if kind == 'crowd' else kind].remedy}"


def _left_out(left: list[Found], home: Path) -> str:
    """Say how much was left out, why, and where it is listed."""
    annotations = sum(one.annotation is not None for one in left)
    parts = [
        f"{count} {what}" for count, what in ((annotations, "annotations"), (len(left) - annotations, "other entries"))
    ]
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in left).most_common(4))
    told = " and ".join(part for part in parts if part[0] != "0")
    return f"{told} were left out ({kinds}); they are listed in {home / LEFT_OUT}"


def _list_left_out(left: Iterable[Found], path: Path) -> None:
    """Write a row an entry: kind of finding, id of the annotation, image, why."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "annotation", "image", "message"])
        for one in left:
            annotation = "" if one.annotation is None else str(one.annotation)
            writer.writerow([one.kind, *map(clean, (annotation, one.image, one.message))])


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


def _flip(source: Source, classes: dict[int, int]) -> list[int] | None:
    """Return ``flip_idx``: the user's, else the one that the classes' keypoints agree on."""
    if isinstance(source.flip_idx, list):
        return source.flip_idx
    names = [points for k in classes if (points := source.key_points[k])]
    longest = max(names, key=len, default=[])
    agree = all(points == longest[: len(points)] for points in names)
    return flip_order(longest) if agree and len(longest) == source.layout.points else None


def _yaml(
    source: Source,
    home: Path,
    splits: dict[str, list[Item]],
    classes: dict[int, int],
    task: str,
    flip: list[int] | None,
) -> str:
    values: dict[str, object] = {"path": str(home.absolute())}
    values |= {name: f"images/{name}" for name in splits}
    values.setdefault("val", values["train"])
    values["names"] = {index: clean((source.names or {})[k]) for k, index in classes.items()}
    if task == "pose":
        values["kpt_shape"] = [source.layout.points, 3]
    if flip is not None:
        values["flip_idx"] = flip
    return "# Made by gradsafe of COCO JSON\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _notes(
    source: Source, home: Path, splits: dict[str, list[Item]], images: Counter[str], objects: Counter[str]
) -> list[str]:
    """Return what was made, sentences."""
    parts = ", ".join(f"{images[name]} {name} images with {objects[name]} objects" for name in splits)
    notes = [f"converted {clean(source.path.absolute().name)} to {home}: {parts}"]
    if "val" not in splits:
        notes.append(ONE_SET)
    elif "val" not in source.splits:
        notes.append(f"{len(splits['val'])} of the images are used for validation, the same ones every time")
    return notes


def _warnings(source: Source, no_flip: bool) -> list[str]:
    """Return what a user should know of how the annotations were read, a sentence a kind, the commonest first."""
    told: dict[str, list[Found]] = {}
    for one in source.found:
        if KINDS[one.kind].severity == "warning":
            told.setdefault(one.kind, []).append(one)
    ranked = sorted(told.values(), key=len, reverse=True)
    words = [
        clean(f"{found[0].message}" + (f" (and {len(found) - 1} more of {found[0].kind})" if len(found) > 1 else ""))
        + f": {KINDS[found[0].kind].remedy}"
        for found in ranked
    ]
    return [*words, NO_FLIP] if no_flip else words
