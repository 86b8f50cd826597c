"""Checks of one image file: its bytes, its header, its pixels; read once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from yolo_gradsafe.data.read.files import read_bytes, reason
from yolo_gradsafe.data.read.header import Header, open_image, read_header

__all__ = ["Photo", "look", "open_photo"]

Pixels = npt.NDArray[np.generic]

SMALLEST = 10
"""Pixels a side that Ultralytics wants."""
CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3, "YCbCr": 3, "RGBA": 4, "LA": 2, "PA": 4, "CMYK": 4, "I;16": 1}
"""Channels by Pillow's mode; a palette is one of colours."""
KNOWN = {"AVIF", "BMP", "DNG", "HEIC", "HEIF", "JP2", "JPEG2000", "JPEG", "MPO", "PNG", "TIFF", "WEBP"}
"""Formats that Ultralytics takes, as Pillow names them."""
PLUGINS = {"avif", "dng", "heic", "heif", "jp2"}
"""Endings of formats that Pillow may need a plugin for, which Ultralytics installs when it comes to that."""
FLAGS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR
"""Colours and turned as the camera was held, as training reads them, with the depth that training drops."""

Told = tuple[str, str]
"""Kind and message."""


@dataclass
class Photo:
    """An image file in memory."""

    data: bytes = b""
    header: Header | None = None
    told: list[Told] = field(default_factory=list)
    """What its bytes and its header gave away."""


def open_photo(path: str) -> Photo:
    """Read an image file's bytes and header; what fails is told."""
    try:
        photo = Photo(read_bytes(path))
    except FileNotFoundError:
        broken = os.path.islink(path)
        return Photo(told=[("image_missing", "a link to nothing" if broken else "no such file")])
    except (OSError, ValueError) as error:
        return Photo(told=[("image_unreadable", reason(error))])
    if not photo.data:
        photo.told.append(("image_unreadable", "an empty file"))
        return photo
    try:
        photo.header = read_header(photo.data)
    except ValueError as error:
        plugin = path.rpartition(".")[2].lower() in PLUGINS
        photo.told.append(("image_unchecked" if plugin else "image_unreadable", str(error)))
    return photo


def look(photo: Photo, channels: int) -> tuple[Pixels | None, list[Told]]:
    """Decode an image, and return its pixels as training's reader gives them, and what is wrong with it."""
    if not photo.data:
        return None, []
    told = list(_header(photo.header, channels)) if photo.header else []
    cut = _cut(photo.data, photo.header) if photo.header else None
    pixels = None if cut and cut[0] == "image_truncated" else _decode(photo.data)
    if cut:
        told.append(cut)
    elif pixels is None and photo.header:
        told.append(("image_unreadable", f"OpenCV cannot decode this {photo.header.format}"))
    if pixels is not None:
        told += _pixels(pixels)
    return pixels, told


def _header(header: Header, channels: int) -> Iterator[Told]:
    if min(header.size) < SMALLEST:
        yield "image_tiny", f"{header.size[0]} x {header.size[1]} pixels"
    if header.format not in KNOWN:
        yield "image_format", f"a {header.format} by its content"
    found = CHANNELS.get(header.mode)
    if found == 1 and channels == 3:
        yield "image_grey", "one channel"
    elif found is not None and found != channels and header.format != "TIFF":
        yield "image_channels", f"{found} channels ({header.mode}), expected {channels}"


def _cut(data: bytes, header: Header) -> Told | None:
    """Tell a file that ends too early, by its end mark; only where that is missing it is decoded to its end."""
    if header.format in {"JPEG", "MPO"}:
        whole = data.endswith(b"\xff\xd9")
    elif header.format == "PNG":
        whole = b"IEND" in data[-64:]
    else:
        return None
    if whole:
        return None
    try:
        with open_image(data) as image:
            image.load()
    except Exception as error:  # Pillow's readers fail each in its own ways
        return "image_truncated", f"{error}"
    return ("image_tail", "the end mark is not at the end") if header.format != "PNG" else None


def _decode(data: bytes) -> Pixels | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), FLAGS)
    except (cv2.error, MemoryError):
        return None


def _pixels(pixels: Pixels) -> Iterator[Told]:
    if pixels.dtype == np.uint16:
        yield "image_16bit", f"16 bits a channel, brightest {pixels.max()}"
    elif pixels.dtype != np.uint8:
        bad = int((~np.isfinite(pixels)).sum()) if pixels.dtype.kind == "f" else 0
        if bad:
            yield "image_nonfinite", f"{bad} NaN or infinite values"
        else:
            yield "image_float", f"{pixels.dtype.name} from {pixels.min():g} to {pixels.max():g}"
    flat = pixels.reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1)
    if len(flat) and (flat[0] == flat[len(flat) // 2]).all() and (flat == flat[0]).all():
        yield "image_constant", f"every pixel is {' '.join(f'{value:g}' for value in flat[0].tolist())}"
