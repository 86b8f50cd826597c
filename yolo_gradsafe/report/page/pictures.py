"""The pictures of incidents, put into the page as data: small, and no more of them than the page can carry."""

from __future__ import annotations

import base64
import io
from pathlib import Path

__all__ = ["Album"]

BUDGET = 2_500_000
"""Characters that all pictures together take at most."""
LARGEST = 900
"""Pixels of the longer side."""
QUALITY = 72


class Album:
    """Reads pictures of one run until the budget is spent; later ones are left as links.

    Args:
        run: The run's folder; nothing outside it is read.
    """

    def __init__(self, run: Path) -> None:
        self._run = run.resolve()
        self._left = BUDGET

    def path(self, name: str) -> Path | None:
        """Return where a picture lies; None unless it is one and within the run's folder."""
        try:
            path = (self._run / name).resolve()
            fits = path.is_relative_to(self._run) and path.suffix.lower() in {".jpg", ".jpeg", ".png"}
            return path if name and fits and path.is_file() else None
        except (OSError, ValueError):
            return None

    def link(self, name: str) -> str:
        """Return a picture's address relative to the page, or nothing."""
        from urllib.parse import quote

        path = self.path(name)
        return quote(path.relative_to(self._run).as_posix()) if path else ""

    def data(self, name: str) -> str:
        """Return a picture as a data URI; nothing where there is none, it cannot be read, or the budget is spent."""
        path = self.path(name)
        if path is None or self._left <= 0:
            return ""
        try:
            small = _small(path)
        except Exception:  # whatever an image library may say to a file that is none
            return ""
        text = "data:image/jpeg;base64," + base64.b64encode(small).decode()
        if len(text) > self._left:
            return ""
        self._left -= len(text)
        return text


def _small(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path, formats=("JPEG", "PNG")) as image:
        image.draft("RGB", (LARGEST, LARGEST))
        small = image.convert("RGB")
        small.thumbnail((LARGEST, LARGEST))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()
