"""The header of an image file: its format, size and kind of pixels, without decoding it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from yolo_gradsafe.data.read.files import read_bytes

__all__ = ["Header", "open_image", "peek", "read_header", "swaps"]

ENOUGH = 2**17
"""Bytes that nearly every header fits in."""
ORIENTATION = 274
"""EXIF tag of the way the camera was held; 5 to 8 lie on their side."""


@dataclass(frozen=True)
class Header:
    """What the header says."""

    format: str
    """As Pillow names it: JPEG, PNG, ..."""
    mode: str
    """As Pillow names it: RGB, L (grey), RGBA, CMYK, I;16, ..."""
    size: tuple[int, int]
    """Width and height, pixels, as training's decoder gives them: for most formats turned as the camera was held."""
    turned: bool
    """Whether its EXIF data say that it lies on its side."""


def peek(path: str) -> Header:
    """Read the header of an image file, and as little else of it as will do.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no image that is known.
    """
    try:
        return read_header(read_bytes(path, ENOUGH))
    except ValueError:
        return read_header(read_bytes(path))  # a header with a large preview or colour profile in it


def open_image(data: bytes) -> Image.Image:
    """Open an image with Pillow's own function.

    Ultralytics replaces ``Image.open`` by one that installs a package when a file is no image.
    """
    patches = sys.modules.get("ultralytics.utils.patches")
    own: Callable[[io.BytesIO], Image.Image] = getattr(patches, "_image_open", Image.open)
    return own(io.BytesIO(data))


@cache
def swaps(format: str) -> bool:
    """Tell whether the decoder swaps the sides that Pillow states for an image on its side.

    It depends on the format and on the releases of Pillow and OpenCV, so a tiny image of the format is asked.
    """
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    try:
        Image.new("RGB", (32, 16)).save(file, format, exif=exif)
        with open_image(file.getvalue()) as image:
            stated = image.size
        pixels = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    except Exception:  # Pillow cannot write the format: each of its writers fails in its own way
        return format in {"JPEG", "MPO", "PNG"}
    return pixels is not None and pixels.shape[1::-1] != stated


def read_header(data: bytes) -> Header:
    """Read the header of an image file's bytes.

    Raises:
        ValueError: The bytes are no image that is known.
    """
    try:
        with open_image(data) as image:
            # Pillow would decode a whole PNG to look for EXIF data after its pixels.
            exif = {} if image.format == "PNG" and "exif" not in image.info else image.getexif()
            turned = exif.get(ORIENTATION) in {5, 6, 7, 8}
            width, height = image.size
            size = (height, width) if turned and swaps(str(image.format)) else (width, height)
            return Header(str(image.format), image.mode, size, turned)
    except UnidentifiedImageError:
        raise ValueError("no image: Pillow does not know its format") from None
    except Exception as error:  # Pillow's readers fail each in its own ways
        raise ValueError(f"no image: {type(error).__name__}: {error}") from None
