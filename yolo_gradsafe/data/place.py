"""Where results are kept between runs: the user's cache folder."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(name: str, given: Path | None = None) -> Path:
    """Return a folder below the user's cache, made if it is missing.

    It is ``given`` where it is; else below ``GRADSAFE_CACHE``, ``YOLO_CONFIG_DIR`` or ``XDG_CACHE_HOME`` where one is
    set, and below the system's place for caches otherwise. Where that cannot be written it is a new temporary folder.

    Args:
        name: What is kept there.
        given: A folder that a caller asks for, in place of all that.

    Raises:
        OSError: ``given`` cannot be written.
    """
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given
    folder = _root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix=f"gradsafe-{name}-"))


def _root() -> Path:
    if own := os.environ.get("GRADSAFE_CACHE"):
        return Path(own).expanduser()
    for variable in ("YOLO_CONFIG_DIR", "XDG_CACHE_HOME"):
        if folder := os.environ.get(variable):
            return Path(folder).expanduser() / "gradsafe"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "gradsafe" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gradsafe"
    return Path.home() / ".cache" / "gradsafe"
