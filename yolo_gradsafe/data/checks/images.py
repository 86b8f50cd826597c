"""Checks of one image file: its bytes, its header, its pixels, and what its decoder complains of; read once."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from yolo_gradsafe.data.read.files import read_bytes, reason
from yolo_gradsafe.data.read.header import Header, open_image, read_header

__all__ = ["DecoderLog", "Photo", "check_npy", "look", "look_again", "open_photo"]

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

DECODERS = re.compile(
    r"(Corrupt JPEG|Premature end of JPEG|Inconsistent progression|Application transferred|Invalid (SOS|crc|component)"
    r"|Unsupported (marker|JPEG)|Bogus|libpng|TIFF|\[ ?(WARN|ERROR|INFO|DEBUG)).*"
)
"""Lines that image decoders print."""
BROKEN = re.compile(r"(?!.*extraneous bytes before marker 0xd9)(Corrupt JPEG|Premature end|Inconsistent|Invalid SOS).*")
"""Those of them that tell of broken pixels."""

Told = tuple[str, str]
"""Kind and message."""


class DecoderLog:
    """Catches what decoders write to the terminal for as long as it is entered: C code, which names no file.

    What others write meanwhile comes out at the end. Where the terminal is caught already, or is not there, nothing is.
    """

    _one = threading.Lock()

    def __enter__(self) -> DecoderLog:
        logging = cv2.utils.logging
        self._level = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        self._kept = -1
        self._file = tempfile.TemporaryFile("a+b")  # what is written lands at the end, wherever it is read
        if self._one.acquire(blocking=False):
            try:
                self._kept = os.dup(2)
                os.dup2(self._file.fileno(), 2)
            except OSError:
                self._one.release()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cv2.utils.logging.setLogLevel(self._level)
        with self._file:
            if self._kept < 0:
                return
            os.dup2(self._kept, 2)
            os.close(self._kept)
            self._one.release()
            others = [line for line in self.since(0) if not DECODERS.match(line)]
            if others:
                os.write(2, "".join(others).encode("utf-8", "surrogateescape"))

    @property
    def size(self) -> int:
        """Bytes that were caught so far, by all threads."""
        return os.fstat(self._file.fileno()).st_size

    def since(self, start: int) -> list[str]:
        """Return the lines that were caught after ``start`` bytes."""
        self._file.seek(start)
        return self._file.read().decode("utf-8", "surrogateescape").splitlines(keepends=True)


@dataclass
class Photo:
    """An image file in memory."""

    data: bytes = b""
    header: Header | None = None
    told: list[Told] = field(default_factory=list)
    """What its bytes and its header gave away."""
    noisy: bool = False
    """Whether a decoder complained while it was decoded, of this image or of another thread's."""


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


def look_again(path: str, log: DecoderLog) -> list[Told]:
    """Decode an image alone, and return what its decoder complains of."""
    before = log.size
    try:
        _decode(read_bytes(path))
    except (OSError, ValueError):
        return []
    lines = [line.strip() for line in log.since(before) if BROKEN.match(line)]
    return [("image_corrupt", lines[0])] if lines else []


def look(photo: Photo, channels: int, log: DecoderLog) -> tuple[Pixels | None, list[Told]]:
    """Decode an image, and return its pixels as training's reader gives them, and what is wrong with it."""
    if not photo.data:
        return None, []
    told = list(_header(photo.header, channels)) if photo.header else []
    cut = _cut(photo.data, photo.header) if photo.header else None
    before = log.size
    pixels = None if cut and cut[0] == "image_truncated" else _decode(photo.data)
    photo.noisy = log.size > before
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


def check_npy(image: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the ``.npy`` beside an image, as kind and message; objects in it are never unpickled.

    Ultralytics' ``cache=disk`` leaves it there, and it is read in place of the image from then on.
    """
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
