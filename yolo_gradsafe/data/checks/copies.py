"""The same picture in two splits: as a file, and as nearly the same pixels, such as saved anew or the next frame."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from yolo_gradsafe.data.findings import Found

__all__ = ["Print", "find_copies", "fingerprint"]

SIDE = 16
"""Pixels a side of the small grey picture by which two are compared."""
LEAST_CONTRAST = 4.0
"""Standard deviation of the small picture, grey levels, from which it tells one image from another."""
ALIKE = 56
"""Of 64 signs of the picture's gradient, how many agree at least (a difference hash)."""
CLOSE = 3.0
"""Mean difference of two small pictures, grey levels, but for their brightness."""
MOST_PAIRS = 10**9
"""Pairs that are compared; beyond that only files are."""


class Print(NamedTuple):
    """What tells a picture from others."""

    image: str
    digest: bytes
    """Hash of the file."""
    small: npt.NDArray[np.uint8] | None
    """(SIDE, SIDE), grey levels; None where the image has no contrast or could not be decoded."""


def fingerprint(image: str, data: bytes, pixels: npt.NDArray[np.generic] | None) -> Print:
    """Return what tells an image from others, given its file's bytes and its pixels (H, W, C) or (H, W)."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    if pixels is None or pixels.dtype != np.uint8:
        return Print(image, digest, None)
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = small if small.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(small[..., :3]), cv2.COLOR_BGR2GRAY)
    return Print(image, digest, grey if cv2.meanStdDev(grey)[1][0, 0] >= LEAST_CONTRAST else None)


def find_copies(splits: Mapping[str, Sequence[Print]]) -> Iterator[Found]:
    """Yield images of other splits that are copies of training images or nearly so; links to one file are no copies."""
    train = splits.get("train", ())
    files = {one.digest: one for one in train}
    seen = [one for one in train if one.small is not None]
    for split, prints in splits.items():
        if split == "train" or not train:
            continue
        rest = []
        for one in prints:
            other = files.get(one.digest)
            if other is None:
                rest.append(one)
            elif not _same_file(one.image, other.image):
                yield Found("split_copy", f"in '{split}': a copy of {other.image}", one.image, image=one.image)
        rest = [one for one in rest if one.small is not None]
        if rest and seen and len(rest) * len(seen) <= MOST_PAIRS:
            for one, other in _near(rest, seen):
                yield Found("split_near", f"in '{split}': nearly {other.image}", one.image, image=one.image)


def _near(ones: list[Print], others: list[Print]) -> Iterator[tuple[Print, Print]]:
    """Yield each image that is nearly another, with the first such."""
    theirs = _signs(others)
    for start in range(0, len(ones), 256):
        some = ones[start : start + 256]
        agree = 32 + _signs(some) @ theirs.T / 2
        for k, row in enumerate(agree >= ALIKE):
            for j in np.flatnonzero(row):
                mine, other = some[k].small, others[j].small
                if mine is not None and other is not None and _difference(mine, other) <= CLOSE:
                    yield some[k], others[j]
                    break


def _difference(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    between = one.astype(np.float32) - other
    return float(np.abs(between - between.mean()).mean())


def _signs(prints: list[Print]) -> npt.NDArray[np.float32]:
    """Return for each image the signs of the gradient at 8 x 8 places, (N, 64), -1 or 1."""
    rows = [cv2.resize(one.small, (9, 8), interpolation=cv2.INTER_AREA) for one in prints if one.small is not None]
    small = np.stack(rows)
    rises = small[:, :, 1:] > small[:, :, :-1]
    signs: npt.NDArray[np.float32] = np.where(rises, 1, -1).astype(np.float32).reshape(len(prints), 64)
    return signs


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
