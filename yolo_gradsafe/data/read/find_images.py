r"""Where the images of a COCO JSON lie, whatever its tool calls them: a path of Windows or of a server, an address.

A name is matched by its end: ``images\\1/x.jpg`` is the file ``1/x.jpg`` or ``x.jpg`` of the folder of the images. What
is matched by less than its whole name may be another picture of the same name, so ``claims`` lets it pass only where no
other entry wants the file.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from yolo_gradsafe.data.read.listing import is_image

__all__ = ["SPLITS", "ImageFinder", "Match", "claims", "folders", "split_of"]

SAMPLE = 50
"""Images by which the folder of the images is told."""
WORDS = re.compile(
    r"^_?(instances|person_keypoints|keypoints|annotations?|labels?|coco)_+|_+(annotations?|labels?|coco)$"
)
"""Words around the split in the name of a JSON."""
USUAL = ("images", "", "data", "img", "imgs", "JPEGImages")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""What exports call a split."""
HASHED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""


class Match(NamedTuple):
    """A file that an entry may mean."""

    path: str
    whole: bool
    """Whether all of the name agrees, and not its end alone."""


class ImageFinder:
    """Finds the images of one JSON.

    Args:
        json: The JSON.
        names: What it calls its images.
        folder: The folder of the images where it is named.
    """

    def __init__(self, json: Path, names: Sequence[str], folder: Path | None = None) -> None:
        self._json, self._names = json.absolute(), names
        self._given = folder
        self._stem = WORDS.sub("", WORDS.sub("", self._json.name.split(".")[0]))
        self._split = split_of(self._json.stem) or split_of(self._json.parent.name)
        self._listed: dict[str, dict[str, list[str]]] = {}

    @cached_property
    def folder(self) -> Path | None:
        """The folder of the images: the one named, else the usual place that holds most of them; None without any."""
        if self._given is not None:
            return self._given
        for exact in (True, False):
            if best := self._best(self._usual(), exact):
                return best[0]
        best = self._best(self._others(), True)
        return best[0] if len(best) == 1 else None  # in two folders of frames the same names are different pictures

    def find(self, name: str) -> Match | None:
        """Return the file of an image, None where there is none."""
        if self.folder is None:
            return None
        return self._match(self.folder, name, True) or self._match(self.folder, name, False)

    def _best(self, places: Sequence[Path], exact: bool) -> list[Path]:
        """Return the places that hold most of the images, none where no place holds any."""
        sample = self._names[:: max(1, len(self._names) // SAMPLE)]
        scores = {}
        for place in places:
            found = [match for name in sample if (match := self._match(place, name, exact))]
            scores[place] = len(found), sum(match.whole for match in found)
        most = max(scores.values(), default=(0, 0))
        return [place for place, score in scores.items() if score == most] if most > (0, 0) else []

    def _usual(self) -> list[Path]:
        near, above = self._json.parent, self._json.parent.parent
        stems = list(dict.fromkeys([self._stem, *SPLITS.get(self._split or "", ())]))
        places = [near / name for name in USUAL]
        places += [near / outer / one for outer in ("", "images", "data") for one in stems]
        places += [above / outer / one for one in stems for outer in ("", "images", "data")]
        places += [above / name for name in USUAL]
        return list(dict.fromkeys(places))

    def _others(self) -> list[Path]:
        """Return the folders beside and above the JSON, but for those of another split."""
        near, above = self._json.parent, self._json.parent.parent
        roots = [root / name for root in (near, above) for name in ("", "images", "data")]
        places = [place for root in roots for place in folders(root) if split_of(place.name) in (None, self._split)]
        return list(dict.fromkeys(places))

    def _match(self, place: Path, name: str, exact: bool) -> Match | None:
        raw = os.path.join(place, name)
        if name and os.path.lexists(raw):
            return Match(raw, True)
        told = _told(name)
        for parts in _forms(name):
            for start in range(len(parts)):
                if path := self._descend(str(place), parts[start:], exact):
                    return Match(path, exact and start == 0 and "/".join(parts) == told)
        return None

    def _descend(self, folder: str, parts: Sequence[str], exact: bool) -> str | None:
        """Return a file below a folder, found in spite of letter case, Unicode form or ending."""
        path = os.path.join(folder, *parts)
        if exact:
            return path if os.path.isfile(path) else None
        for index, part in enumerate(parts):
            names = self._names_in(folder)
            found = names.get(_plain(part), [])
            if not found and index == len(parts) - 1:  # without its ending, or saved in another format
                stem = part.rpartition(".")[0] if is_image(part) else part
                found = names.get(f"{_plain(stem)}.*", [])
            if len(found) != 1:
                return None
            folder = os.path.join(folder, found[0])
        return folder if os.path.isfile(folder) else None

    def _names_in(self, folder: str) -> dict[str, list[str]]:
        """Return the names in a folder by their plain form, images also without their ending."""
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    names.setdefault(_plain(name), []).append(name)
                    if is_image(name):
                        names.setdefault(f"{_plain(name.rpartition('.')[0])}.*", []).append(name)
            except OSError:
                pass
            self._listed[folder] = names
        return self._listed[folder]


def claims(matches: Sequence[tuple[str, Match]]) -> list[str]:
    """Tell of entries whether they may have the file that they match.

    Args:
        matches: Name in the JSON and file of each entry.

    Returns:
        Why an entry may not, empty where it may: among different names one file belongs to the one that it fits
        wholly, and to none where it fits several by their end alone.
    """
    whole: dict[str, dict[str, None]] = {}
    every: dict[str, dict[str, None]] = {}
    for name, match in matches:
        path = os.path.abspath(match.path)
        every.setdefault(path, {})[_told(name)] = None
        if match.whole:
            whole.setdefault(path, {})[_told(name)] = None
    answers = []
    for name, match in matches:
        rivals = (whole if match.whole else every)[os.path.abspath(match.path)]
        other = next((rival for rival in rivals if rival != _told(name)), None)
        file = os.path.basename(match.path)
        answers.append("" if other is None else f"'{name}' and '{other}' both end at the one file {file}")
    return answers


def _told(name: str) -> str:
    """Return a name with plain slashes, for comparing."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _forms(name: str) -> list[list[str]]:
    """Return the parts of a name, first as it stands, then without what a server added."""
    path, query = name, ""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name) or "?d=" in name:
        address = urlsplit(name)
        path, query = unquote(address.path), next(iter(parse_qs(address.query).get("d", [])), "")
    texts = [query or path]
    if "%" in texts[0]:
        texts.append(unquote(texts[0]))
    forms = []
    for text in texts:
        parts = [part for part in re.split(r"[\\/]", text) if part not in ("", ".", "..")]
        if parts and re.fullmatch(r"[a-zA-Z]:", parts[0]):
            del parts[0]
        if parts:
            forms.append(parts)
            if HASHED.match(parts[-1]):
                forms.append([*parts[:-1], HASHED.sub("", parts[-1])])
    return forms


def split_of(name: str) -> str | None:
    """Return the split that a file or folder is named after, None without one."""
    words = set(re.split(r"[^a-z]+", name.casefold()))
    return next((split for split, known in SPLITS.items() if words & set(known)), None)


def folders(root: Path) -> list[Path]:
    """Return the folders in a folder; none where it cannot be listed, which listing its images tells."""
    try:
        return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")][:100]
    except OSError:
        return []
