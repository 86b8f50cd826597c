"""How it is said that an option is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["ConfigError", "nearest"]


class ConfigError(ValueError):
    """A wrong option, file or preset; the message names it, its value, what is allowed and the nearest valid name."""


def nearest(name: str, allowed: Iterable[str], others: Mapping[str, str] | None = None) -> str:
    """Phrase the nearest valid name as a question to append to an error, or nothing when none is near.

    Args:
        name: What was given.
        allowed: The valid names.
        others: Valid names by other names that they are known under.
    """
    meant = {**{known: known for known in allowed}, **(others or {})}
    match = difflib.get_close_matches(name.lower(), meant, n=1, cutoff=0.5)
    return f" Did you mean '{meant[match[0]]}'?" if match else ""
