"""The ``.npy`` that Ultralytics' ``cache=disk`` leaves beside an image, and reads in place of it from then on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

__all__ = ["check_npy"]


def check_npy(image: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an image's array file, as kind and message; objects in it are never unpickled."""
    path = image.rsplit(".", 1)[0] + ".npy"
    try:
        if not os.path.isfile(path) or os.stat(path).st_mtime < os.stat(image).st_mtime:
            return
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype == np.uint8:
            return
        bad = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
    except (OSError, ValueError, EOFError, SyntaxError):
        return  # training replaces an array that cannot be read
    if bad:
        yield "cache_npy_nonfinite", f"{bad} NaN or infinite values in {os.path.basename(path)}"
    else:
        yield "cache_npy", f"{os.path.basename(path)} holds {array.dtype.name}, expected uint8"
