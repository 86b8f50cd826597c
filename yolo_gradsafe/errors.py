"""What goes wrong with options, and how it is said."""

from __future__ import annotations

import difflib

__all__ = ["ConfigError", "nearest"]


class ConfigError(ValueError):
    """A wrong option, file or preset; the message names it, its value, what is allowed and the nearest valid name."""


def nearest(name: str, allowed: list[str]) -> str:
    """Phrase the nearest valid name as a question to append to an error, or nothing when none is near."""
    match = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
