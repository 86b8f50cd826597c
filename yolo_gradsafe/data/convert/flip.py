"""Where each keypoint goes when an image is mirrored, told by the names: left and right change places."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["flip_order"]

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^A-Za-z\d]+")
"""A word of a name in snake, kebab or camel case: left_eye, eye-L, LeftEye, l_eye."""


def flip_order(names: Sequence[str]) -> list[int] | None:
    """Return Ultralytics' ``flip_idx``, or None where the names do not tell it.

    They tell it where at least one pair of sides is found and no side lacks its other: ``left_eye`` without a
    ``right_eye`` may have any partner. A name without a side, such as ``nose``, stays where it is.
    """
    places = {name.casefold(): k for k, name in enumerate(names)}
    if len(places) != len(names):
        return None
    order = list(range(len(names)))
    for k, name in enumerate(names):
        mirrored = _mirrored(name)
        if mirrored is None:
            continue
        if mirrored not in places:
            return None
        order[k] = places[mirrored]
    paired = any(k != other for k, other in enumerate(order))
    return order if paired and all(order[order[k]] == k for k in order) else None


def _mirrored(name: str) -> str | None:
    """Return the name of the other side, in lower case, None where the name has no side."""
    words = _WORD.findall(name)
    sides = [k for k, word in enumerate(words) if word.casefold() in _SIDES]
    if not sides:
        return None
    return "".join(_SIDES[word.casefold()] if k in sides else word.casefold() for k, word in enumerate(words))
