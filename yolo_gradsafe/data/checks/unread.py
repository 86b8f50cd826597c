"""Labels that exist and are not read: an image whose label file is not found counts as empty, without a word."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator

from yolo_gradsafe.data.findings import Found
from yolo_gradsafe.data.read.source import Item, Source

__all__ = ["Unread"]

LEAST_BYTES = 9
"""Bytes of the shortest row of a label file: ``0 0 0 1 1``."""
LABELS = ("labels", "label", "labeltxt", "annotations", "txt")
"""What people call the folder of the labels, in lower case."""
FOREIGN = {".json": "a JSON, such as labelme's", ".xml": "an XML, such as Pascal VOC's"}


class Unread:
    """Looks for the labels of images that have none where Ultralytics reads them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._listed: dict[str, dict[str, str]] = {}

    def found(self) -> Iterator[Found]:
        """Yield a finding an image."""
        for item in self._source.items:
            if not os.path.isfile(item.label) and (near := self._near(item)):
                path, why = near
                yield Found("label_unread", f"{why}; Ultralytics reads {item.label}", path, image=item.image)

    def _near(self, item: Item) -> tuple[str, str] | None:
        """Return a file that holds labels of an image, and why it is not read."""
        stem = os.path.splitext(os.path.basename(item.image))[0]
        home = os.path.dirname(item.label)
        for folder in self._folders(item):
            names = self._names(folder)
            name = names.get(_plain(f"{stem}.txt")) or names.get(_plain(f"{os.path.basename(item.image)}.txt"))
            if name and _holds(path := os.path.join(folder, name)):
                if folder != home:
                    return path, "it lies in another folder"
                return path, f"its name is not {os.path.basename(item.label)}, letter by letter"
        for ending, words in FOREIGN.items():
            folder = os.path.dirname(item.image)
            if (name := self._names(folder).get(_plain(stem + ending))) and name != f"{stem}.txt":
                return os.path.join(folder, name), f"it is {words}, no YOLO label"
        return None

    def _folders(self, item: Item) -> list[str]:
        """Return where the labels of an image may lie: the right folder first, then those that people take for it."""
        folder, home = os.path.dirname(item.image), os.path.dirname(item.label)
        places = [home, os.path.dirname(item.named) if item.named else home, folder]
        places += [os.path.join(folder, "labels"), os.path.join(os.path.dirname(folder), "labels")]
        parts = folder.split(os.sep)
        for k in range(len(parts) - 1, 0, -1):
            if parts[k].casefold() in ("images", "image", "imgs", "img", "jpegimages"):
                above = os.sep.join(parts[:k])
                labels = [name for plain, name in self._names(above).items() if plain in LABELS]
                places += [os.path.join(above, name, *rest) for name in labels for rest in (parts[k + 1 :], [])]
                break
        return list(dict.fromkeys(places))

    def _names(self, folder: str) -> dict[str, str]:
        """Return the names in a folder by their plain form."""
        if folder not in self._listed:
            try:
                self._listed[folder] = {_plain(name): name for name in os.listdir(folder)}
            except OSError:
                self._listed[folder] = {}
        return self._listed[folder]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _holds(path: str) -> bool:
    """Tell whether a file is long enough to hold an object."""
    try:
        return os.path.isfile(path) and os.path.getsize(path) >= LEAST_BYTES
    except OSError:
        return False
