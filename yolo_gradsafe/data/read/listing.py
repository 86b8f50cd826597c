"""The images of a split, found as Ultralytics finds them: a folder, a list in a text file, or several of these."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.files import read_bytes, reason

__all__ = ["FORMATS", "is_image", "label_of", "list_images"]

FORMATS = frozenset(["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"])
"""Endings of the files that Ultralytics takes for images."""


def list_images(place: Path, found: list[Found]) -> list[str]:
    """Return the images of a folder, of what is below it, or of a list; sorted, each once.

    A link that leads back up is followed once only, and told: Ultralytics would find its images up to 40 times.
    """
    if os.path.isdir(place):
        return sorted(_walk(place, found))
    try:
        text = read_bytes(str(place)).decode("utf-8-sig", "surrogateescape")
    except (OSError, ValueError) as error:
        why = "not there" if isinstance(error, FileNotFoundError) else reason(error)
        found.append(Found("path_missing", why, str(place)))
        return []
    names = (line for line in text.strip().splitlines() if is_image(line))
    root = f"{place.parent}{os.sep}"
    return sorted({root + name[2:] if name.startswith("./") else name for name in names})


def is_image(name: str) -> bool:
    """Tell whether Ultralytics takes a file for an image, by its ending."""
    return "." in name and name.rpartition(".")[-1].lower() in FORMATS


def label_of(image: str) -> str:
    """Return the label file of an image: the last folder ``images`` becomes ``labels``, the ending ``.txt``."""
    folder, name = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return name.join(image.rsplit(folder, 1)).rsplit(".", 1)[0] + ".txt"


def _walk(folder: Path, found: list[Found]) -> Iterator[str]:
    """Yield what looks like an image below a folder; names that start with a dot are left out, as glob does."""
    above: dict[str, tuple[str, ...]] = {str(folder): (os.path.realpath(folder),)}

    def cannot(error: OSError) -> None:
        found.append(Found("path_missing", f"the folder cannot be listed: {error.strerror}", str(error.filename)))

    for place, folders, files in os.walk(folder, followlinks=True, onerror=cannot):
        seen = above.pop(place, ())
        kept = []
        for name in sorted(folders):
            path = os.path.join(place, name)
            real = os.path.realpath(path)
            if real in seen:
                found.append(Found("path_loop", f"a link leads back to {real}", path))
            elif not name.startswith("."):
                above[path] = (*seen, real)
                kept.append(name)
        folders[:] = kept
        for name in (*files, *kept):  # a folder that is named like an image is one to Ultralytics, until it opens it
            if is_image(name) and not name.startswith("."):
                yield os.path.join(place, name)
