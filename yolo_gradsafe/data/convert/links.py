"""Names of the linked images: safe whatever the JSON calls them, and each with a label file of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["Names", "link"]

PLAIN = " -_.()+=@,"
"""Characters of a name that are kept, beside letters and digits."""
LONGEST = 200
"""Bytes of a name that are kept, its end; file systems stop at 255."""


class Names:
    """Gives out file names that differ in more than their ending."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def fresh(self, name: str) -> str:
        """Return a file name for what a JSON calls ``name``: folders joined by ``_``, odd characters replaced."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        stem, _, ending = "_".join(parts).rpartition(".")
        plain = "".join(char if char.isalnum() or char in PLAIN else "_" for char in stem)
        plain = plain.encode()[-LONGEST:].decode("utf-8", "ignore").lstrip(". ")
        unique, count = plain or "image", 1
        while unique.casefold() in self._taken:
            count += 1
            unique = f"{plain}-{count}"
        self._taken.add(unique.casefold())
        return f"{unique}.{ending}"


def link(target: str, place: Path) -> None:
    """Link a file; where the system has no links for the user, as on some Windows machines, copy it.

    Raises:
        OSError: None of it works.
    """
    target = os.path.abspath(target)
    for make in (os.symlink, os.link):
        try:
            make(target, place)
            return
        except OSError:
            continue
    shutil.copyfile(target, place)
