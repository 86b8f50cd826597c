"""Checks of the set as a whole: its splits, its classes, its keypoints' mirror."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence

from yolo_gradsafe.data.checks.unread import Unread
from yolo_gradsafe.data.findings import Found, Split
from yolo_gradsafe.data.read.listing import is_image
from yolo_gradsafe.data.read.source import Source

__all__ = ["check_flip", "check_set"]

NO_LABELS = {"classes.txt", "labels.txt", "names.txt", "notes.txt", "readme.txt", "train.txt", "val.txt", "test.txt"}
"""Text files that tools leave among the labels."""
MOST_EMPTY = 0.5
"""Share of training images without an object from which it is told."""


def check_set(source: Source, splits: dict[str, Split], classes: Counter[int], batch: int) -> Iterator[Found]:
    """Yield findings about a set whose images and labels were looked at.

    Args:
        source: The set.
        splits: Its splits, counted.
        classes: Objects by class.
        batch: Images a batch.
    """
    file = source.file
    train = splits.get("train")
    if train is not None and not train.images and source.splits:
        yield Found("no_images", "no image in 'train'", file)
    if train is not None and train.images:
        yield from _training(train, file, batch)
    yield from check_flip(source)
    unused = [name for k, name in (source.names or {}).items() if not classes[k]]
    if unused and train is not None and train.objects:
        words = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        yield Found("class_unused", f"{len(unused)} of {len(source.names or {})} classes: {words}", file)
    yield from _overlap(source)
    if source.format != "coco":
        yield from _shared(source)
        unread = list(Unread(source).found())
        yield from unread
        yield from _orphans(source, {found.file for found in unread})


def check_flip(source: Source) -> Iterator[Found]:
    """Yield findings about ``flip_idx``, which says where each keypoint goes when an image is mirrored."""
    count, flip = source.layout.points, source.flip_idx
    if not count or source.format != "yolo" or source.layout.task not in (None, "pose"):
        return
    if flip is None or flip == []:
        yield Found("flip_idx_missing", "no flip_idx", source.file)
    elif not isinstance(flip, Sequence) or not all(type(k) is int for k in flip) or sorted(flip) != [*range(count)]:
        yield Found("flip_idx", f"{flip!r:.80} is no order of 0 to {count - 1}", source.file)
    elif wrong := [k for k in range(count) if flip[flip[k]] != k]:
        yield Found("flip_idx_pairs", f"keypoint {wrong[0]} goes to {flip[wrong[0]]}, but not back", source.file)


def _training(train: Split, file: str, batch: int) -> Iterator[Found]:
    if batch > 1 and train.images > batch and train.images % batch == 1:
        yield Found("last_batch", f"{train.images} images in batches of {batch} leave one", file)
    empty = train.images - train.labelled
    if not train.labelled:
        yield Found("no_labels", f"{train.images} training images, no object", file)
    elif empty > MOST_EMPTY * train.images:
        yield Found("backgrounds", f"{empty} of {train.images} training images ({empty / train.images:.0%})", file)


def _overlap(source: Source) -> Iterator[Found]:
    """Yield images that are trained and validated on, under whatever name."""
    others = {split: items for split, items in source.splits.items() if split != "train"}
    train = {_identity(item.image) for item in source.splits.get("train", ())} if others else set()
    for split, items in others.items():
        for item in items:
            if (identity := _identity(item.image)) is not None and identity in train:
                yield Found("split_overlap", f"in 'train' and in '{split}'", item.image, image=item.image)


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from any other, through links; None where it cannot be told."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _shared(source: Source) -> Iterator[Found]:
    first: dict[str, str] = {}
    for item in source.items:
        other = first.setdefault(item.label, item.image)
        if other != item.image:
            words = f"belongs to {os.path.basename(other)} and {os.path.basename(item.image)}"
            yield Found("label_shared", words, item.label, image=item.image)


def _orphans(source: Source, known: Container[str]) -> Iterator[Found]:
    """Yield label files in the folders of the labels that have no image, listed or not."""
    mark, images = f"{os.sep}labels", f"{os.sep}images"
    for folder in sorted({os.path.dirname(item.label) for item in source.items}):
        if mark not in folder:
            continue
        other = images.join(folder.rsplit(mark, 1))
        try:
            names = sorted(os.listdir(folder))
            stems = {name.rpartition(".")[0] for name in os.listdir(other) if is_image(name)}
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            lone = name.endswith(".txt") and name[:-4] not in stems and not name.startswith(".")
            if lone and name.casefold() not in NO_LABELS and path not in known:
                yield Found("label_orphan", "no image of this name", path)
