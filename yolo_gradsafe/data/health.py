"""The check of a data set: read what there is, examine every image and its objects, count what was found.

Threads share the work: reading and decoding release Python's lock, and nothing has to be imported anew in a process,
which a training that has CUDA open could not fork safely.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path

from yolo_gradsafe.data.checks.copies import Print, find_copies
from yolo_gradsafe.data.checks.images import DecoderLog, look_again
from yolo_gradsafe.data.checks.sets import check_flip, check_set
from yolo_gradsafe.data.examine import WEIGHTS, Examined, examine
from yolo_gradsafe.data.findings import Annotations, CheckError, Found, Health, KindCount, Split
from yolo_gradsafe.data.kinds import KINDS, SEVERITIES, Severity
from yolo_gradsafe.data.label_row import FATAL, task_of
from yolo_gradsafe.data.read import SPLITS, Data, Item, Source, open_data
from yolo_gradsafe.data.tally import Tally, clean
from yolo_gradsafe.data.worst_images import MOST, Tile, save_sheet

__all__ = ["TASKS", "check_source", "run_check"]

TASKS = ("detect", "pose", "segment", "obb")
"""Tasks whose labels are boxes, keypoints or outlines in text files."""
THREADS = min(8, (os.cpu_count() or 1) + 1)
AT_ONCE, LABELS_AT_ONCE = 16, 256
"""Images that a thread examines at once: their files are in memory together; without files it can be more."""

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""


def run_check(
    data: Data,
    *,
    imgsz: int = 640,
    batch: int = 16,
    images: Path | None = None,
    read_images: bool = True,
    sheet: Path | None = None,
    task: str | None = None,
    progress: Progress | None = None,
) -> Health:
    """Check a data set for what makes a loss non-finite, a gradient explode or a training fail.

    Args:
        data: A YOLO data YAML, a COCO JSON (instances or keypoints), a small YAML that names COCO JSONs, a folder, the
            name of one of Ultralytics' data YAMLs, or the content of a data YAML.
        imgsz: Training size that boxes are judged at, pixels.
        batch: Images a batch.
        images: Folder of the images of a JSON; found beside it where it is not given.
        read_images: Read and decode every image, once; else look at labels only.
        sheet: JPEG or PNG file for the worst images; written only where there are any.
        task: Ultralytics' task that the labels are for; pose where there are keypoints if it is not given.
        progress: Called as the work goes on.

    Returns:
        What was found. Mistakes in the data are findings, never exceptions.

    Raises:
        CheckError: There is no such file or folder, or no such task.
        OSError: The sheet cannot be written.
        ValueError: ``imgsz`` or ``batch`` is less than 1.
    """
    if imgsz < 1 or batch < 1:
        raise ValueError(f"expected imgsz >= 1 and batch >= 1, got {imgsz} and {batch}")
    if task is not None and task not in TASKS:
        raise CheckError(f"task '{task}': expected one of {', '.join(TASKS)}")
    started = time.perf_counter()
    source = open_data(data, images, SPLITS, task)
    read = {item.image for item in source.items} if read_images else set()
    name = str(source.path if isinstance(data, Mapping) else data)
    health, tiles = check_source(source, name, imgsz, batch, read, sheet is not None, None, progress, started)
    if sheet is not None and tiles:
        save_sheet(tiles, health.headline, sheet)
    return health


def check_source(
    source: Source,
    name: str,
    imgsz: int,
    batch: int,
    read: Collection[str],
    pictures: bool,
    seconds: float | None,
    progress: Progress | None,
    started: float,
) -> tuple[Health, list[Tile]]:
    """Check a set that was read.

    Args:
        source: The set.
        name: What it is called.
        imgsz: Training size, pixels.
        batch: Images a batch.
        read: Images whose files are read.
        pictures: Whether to make pictures of the worst.
        seconds: Time after ``started`` after which no further images are begun; None takes all the time it needs.
        progress: Called as the work goes on.
        started: When the check began, by ``time.perf_counter``.

    Returns:
        What was found, and pictures of the worst images.
    """
    tally = Tally()
    tally.add(source.found)
    weights = Counter[str]()
    for image, kind in {(found.image, found.kind) for found in source.found if found.image}:
        weights[image] += WEIGHTS[KINDS[kind].severity]

    def examine_chunk(items: list[Item]) -> Examined:
        return examine(items, source, imgsz, read, MOST * pictures, weights, log)

    deadline = None if seconds is None else started + seconds
    counts: dict[str, Split] = {}
    tiles: list[Tile] = []
    classes, images_read, complete = Counter[int](), 0, True
    written, left = 0, Counter(one.kind for one in source.left)
    prints: dict[str, list[Print]] = {}
    noisy: list[str] = []
    with DecoderLog() as log:
        for split, items in source.splits.items():
            objects: list[int] = []
            for part in _in_threads(items, examine_chunk, AT_ONCE if read else LABELS_AT_ONCE, deadline):
                if part is None:
                    complete = False
                    continue
                tally.add(part.found)
                objects += part.objects
                classes += part.classes
                images_read += part.images_read
                prints.setdefault(split, []).extend(part.prints)
                noisy += part.noisy
                written += part.written
                left += part.left
                tiles = sorted([*tiles, *part.tiles], key=Tile.rank)[:MOST]
                if progress is not None:
                    progress(len(objects) + sum(split.images for split in counts.values()), len(source.items))
            labelled = sum(count > 0 for count in objects)
            counts[split] = Split(images=len(items), labelled=labelled, objects=sum(objects))
        for image in noisy:
            tally.add(Found(kind, message, image, image=image) for kind, message in look_again(image, log))
    if complete and images_read >= len({item.image for item in source.items}):
        tally.add(find_copies(prints))
    tally.add(check_set(source, counts, classes, batch) if complete else check_flip(source))
    kinds = tally.kinds()
    layout = source.layout
    counted = source.format == "coco" and complete and not any(tally.count(kind) for kind in FATAL)
    annotations = Annotations(
        task=task_of(source), total=source.annotations, labels=written, left_out=dict(left.most_common())
    )
    health = Health(
        headline=_headline(kinds, counts, complete),
        data=clean(name),
        format=source.format,
        classes=layout.classes,
        keypoints=[layout.points, layout.dims] if layout.points else None,
        splits={clean(split): count for split, count in counts.items()},
        annotations=annotations if counted else None,
        imgsz=imgsz,
        batch=batch,
        images_read=images_read,
        complete=complete and images_read >= len({item.image for item in source.items}),
        kinds=kinds,
        seconds=round(time.perf_counter() - started, 2),
    )
    return health, tiles


def _in_threads(
    items: list[Item], examine_chunk: Callable[[list[Item]], Examined], size: int, deadline: float | None
) -> Iterator[Examined | None]:
    """Yield what was found, in the order of the images; None for images that there was no time for."""

    def work(chunk: list[Item]) -> Examined | None:
        late = stop.is_set() or (deadline is not None and time.perf_counter() > deadline)
        return None if late else examine_chunk(chunk)

    stop = threading.Event()
    chunks = [items[k : k + size] for k in range(0, len(items), size)]
    with ThreadPool(min(THREADS, max(1, len(chunks)))) as pool:
        try:
            yield from pool.imap(work, chunks)
        finally:
            stop.set()  # after Ctrl-C or an exception: what is queued ends at once


def _headline(kinds: list[KindCount], splits: dict[str, Split], complete: bool) -> str:
    images = sum(split.images for split in splits.values())
    objects = sum(split.objects for split in splits.values())
    seen = f"{images} images with {objects} objects" + ("" if complete else " (not all were reached in the time)")
    parts = [part for severity in SEVERITIES[:2] if (part := _part(kinds, severity))]
    return f"{' and '.join(parts)} in {seen}" if parts else f"Nothing serious in {seen}"


def _part(kinds: list[KindCount], severity: Severity) -> str:
    mine = [kind for kind in kinds if kind.severity == severity]
    count = sum(kind.count for kind in mine)
    words = ", ".join(f"{kind.count} {kind.kind}" for kind in mine[:3]) + (", ..." if len(mine) > 3 else "")
    return f"{count} {severity}{'s' * (count != 1)} ({words})" if count else ""
