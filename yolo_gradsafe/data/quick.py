"""The check at the start of a training: all labels, a sample of the images, in bounded time, once for the same data."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import yolo_gradsafe
from yolo_gradsafe.data.findings import CheckError, Health
from yolo_gradsafe.data.health import TASKS, check_source
from yolo_gradsafe.data.place import cache_folder
from yolo_gradsafe.data.read import Data, Source, open_data
from yolo_gradsafe.data.tally import clean

__all__ = ["quick_check"]

SAMPLE = 64
"""Images that are read."""
SPLITS = ("train", "val")


def quick_check(
    data: Data,
    *,
    task: str | None = None,
    imgsz: int = 640,
    batch: int = 16,
    seconds: float = 10.0,
    cache: Path | None = None,
    single_cls: bool = False,
) -> Health | None:
    """Check what a training is about to read; the second time, if nothing changed, from the result of the first.

    The result is kept under a hash of the paths, sizes and times of all label files, of the images of the sample, and
    of what was asked for.

    Args:
        data: A data set as ``run_check`` takes it, or the mapping that Ultralytics made of a data YAML.
        task: Ultralytics' task.
        imgsz: Training size, pixels.
        batch: Images a batch.
        seconds: Time after which no further files are begun.
        cache: Folder of the results; the user's cache folder without it.
        single_cls: Whether all classes are trained as one, whatever their ids.

    Returns:
        What was found, with ``complete`` false as not all images were read; None for a task without such labels.

    Raises:
        CheckError: There is no such file or folder.
    """
    if task is not None and task not in TASKS:
        return None
    started = time.perf_counter()
    source = open_data(data, None, SPLITS, task)
    if single_cls:
        source.layout = replace(source.layout, classes=None)
    name = str(data.get("yaml_file") or source.path) if isinstance(data, Mapping) else str(data)
    sample = _sample(source)
    key = _key(source, sample, f"{task} {imgsz} {batch} {seconds} {source.layout} {source.names} {source.flip_idx!r}")
    path = cache_folder("checks", cache) / f"{key}.json"
    with suppress(OSError, CheckError):
        return Health.load(path).model_copy(update={"data": clean(name)})
    health, _ = check_source(source, name, imgsz, batch, sample, False, seconds, None, started)
    with suppress(OSError):  # the next start checks again
        health.save(path)
    return health


def _sample(source: Source) -> Collection[str]:
    """Return images that are evenly spread over the splits."""
    images = [item.image for item in source.items]
    return set(images[:: max(1, -(-len(images) // SAMPLE))])


def _key(source: Source, sample: Collection[str], asked: str) -> str:
    """Return a hash of what the result depends on."""
    digest = hashlib.sha256(f"{yolo_gradsafe.__version__} {asked}".encode("utf-8", "surrogatepass"))
    for path in _files(source, sample):
        digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        digest.update(b"%d %d\0" % (status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:32]


def _files(source: Source, sample: Collection[str]) -> Iterable[str]:
    yield from map(str, source.files)
    for item in source.items:
        yield item.image if item.image in sample else item.label
        if item.image in sample:
            yield item.label
