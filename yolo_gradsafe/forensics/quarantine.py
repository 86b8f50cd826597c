"""Images that have proven to be poisonous are kept out of later batches.

An offence counts only when it is proven: the image fails by itself and in full precision. Under mosaic or mixup a batch
names only the first of several images, so a composed image that fails is recorded but not counted, unless the file
named was tried alone, without augmentation, and failed as well. Where the file is fine, and the user's loss or
preprocessing failed on it, a healthy step with that image wipes its offences out: it is not poisonous by itself. Such
an image offends anew only after a healthy step with others: in between, any image may have failed.

A quarantined image is replaced wherever a batch names it; as a later source of a mosaic it is not named and cannot be
seen.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.slicing import images_in, pick
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["Quarantine"]

_IN_THE_FILE = (Cause.IMAGE, Cause.LABEL)
"""Causes that an image still has where it happened to pass, such as cropped."""

GREY = 114
"""Ultralytics' padding colour, of 255."""


class Quarantine:
    """Counts offences by image and replaces repeat offenders; costs nothing while empty, then a look-up an image.

    Args:
        path: ``stability/quarantine.txt``, one image path a line; None writes nothing.
        offences: Proven offences after which an image is quarantined.
    """

    def __init__(self, path: Path | None, offences: int = 2) -> None:
        self._path = path
        self._limit = offences
        self._counts: Counter[str] = Counter()
        self._bad_files: dict[str, None] = {}
        self._banned: dict[str, None] = {}
        self._failed: set[str] = set()
        """Images whose file is fine that failed since the last healthy step."""

    @property
    def images(self) -> list[str]:
        """Image files in quarantine, in the order in which they came there."""
        return list(self._banned)

    @property
    def suspects(self) -> set[str]:
        """Images with offences that a healthy step wipes out."""
        return self._counts.keys() - self._bad_files.keys() - self._banned.keys()

    def count_healthy_step(self) -> None:
        """From now on an image that fails does so while others pass."""
        self._failed.clear()

    def acquit(self, images: Iterable[str]) -> None:
        """Wipe out the offences of images that a healthy step was made of; of those with a bad file nothing."""
        for image in self.suspects.intersection(images):
            del self._counts[image]

    def record_offence(self, culprit: Diagnosis) -> list[str]:
        """Count the offences of a diagnosis.

        Returns:
            Images that go into quarantine with it; they are written down at once, or it is logged why not.
        """
        if not culprit.proven:
            return []
        guilty = set(culprit.images)
        if culprit.cause in _IN_THE_FILE:
            self._bad_files.update(dict.fromkeys(culprit.images))
        else:
            guilty -= self._failed
            self._failed |= guilty
        self._counts.update(guilty)
        new = [i for i in dict.fromkeys(culprit.images) if self._counts[i] >= self._limit and i not in self._banned]
        self._banned.update(dict.fromkeys(new))
        if new:
            self._write()
        return new

    def apply(self, batch: dict[str, Any]) -> list[str]:
        """Replace quarantined images in a batch, in place, by others of it with their labels.

        The stand-in is the next sound image of the batch, so that no random number is drawn and every rank keeps its
        batch size. Where all are quarantined they become grey images without objects.

        Args:
            batch: A collated batch, before or after it was preprocessed.

        Returns:
            The images that were replaced.
        """
        if not self._banned:
            return []
        files = [str(file) for file in batch.get("im_file", ())]
        out = [i for i, file in enumerate(files) if file in self._banned]
        if not out:
            return []
        count, banned = images_in(batch), set(out)
        if len(banned) == count:
            _blank(batch)
        else:
            batch.update(pick(batch, [_next_sound(i, banned, count) for i in range(count)]))
        return [files[i] for i in out]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as JSON can hold it."""
        return {
            "offences": dict(self._counts),
            "bad_files": list(self._bad_files),
            "failed": sorted(self._failed),
            "images": self.images,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            KeyError: A part is missing.
            ValueError: A count is no number.
        """
        self._counts = Counter({str(image): int(count) for image, count in state["offences"].items()})
        self._bad_files = dict.fromkeys(map(str, state.get("bad_files", ())))
        self._failed = set(map(str, state.get("failed", ())))
        self._banned = dict.fromkeys(map(str, state["images"]))
        if self._banned or (self._path is not None and self._path.is_file()):
            self._write()  # an epoch that is trained once more may have put images there

    def _write(self) -> None:
        if self._path is None:
            return
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        lines = [image.replace("\\", "\\\\").replace("\n", "\\n") if "\n" in image else image for image in self._banned]
        text = "".join(f"{line}\n" for line in lines)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
            fresh.replace(self._path)
        except OSError as error:
            logging.getLogger(__name__).warning("%s cannot be written: %s", self._path, error)
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)


def _next_sound(index: int, banned: set[int], count: int) -> int:
    return next(i % count for i in range(index, index + count) if i % count not in banned)


def _blank(batch: dict[str, Any]) -> None:
    """Make every image grey and take all objects out."""
    count = images_in(batch)
    names = batch.get("im_file")
    batch.update(_without_objects(batch))
    images: Tensor = batch["img"]
    batch["img"] = torch.full_like(images, GREY / 255 if images.is_floating_point() else GREY)
    for key in ("masks", "sem_masks"):
        if isinstance(value := batch.get(key), Tensor) and len(value) == count:
            batch[key] = torch.zeros_like(value)
    if names is not None:
        batch["im_file"] = names


def _without_objects(batch: Mapping[str, Any]) -> dict[str, Any]:
    owners = batch.get("batch_idx")
    if owners is None:
        return dict(batch)
    nobody = torch.full_like(owners, -1)
    return pick({**batch, "batch_idx": nobody}, range(images_in(batch)))
