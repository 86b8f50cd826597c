"""OpenCV without its own messages: what is wrong with an image becomes a finding, not a line on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2

__all__ = ["quiet_opencv"]


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV's log for as long as it lasts."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
