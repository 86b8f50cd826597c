"""Reading a file whose name comes from elsewhere: it may be a folder, a pipe, a loop of links or not there."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["read_bytes", "reason"]


def read_bytes(path: str, most: int = -1) -> bytes:
    """Read a regular file, or its first ``most`` bytes.

    Raises:
        OSError: It cannot be read; a pipe or a device is not even opened, as it might never end.
        ValueError: The name is none that a file can have.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, no file", path)
    with open(path, "rb") as file:
        return file.read(most)


def reason(error: OSError | ValueError) -> str:
    """Say in a few words why a file could not be read."""
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
