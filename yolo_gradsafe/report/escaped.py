"""Text from outside, so that Markdown leaves it as it is."""

from __future__ import annotations

import re

from yolo_gradsafe.report.console import shown

__all__ = ["code", "plain"]


def plain(text: str) -> str:
    """Return a text that Markdown leaves as it is."""
    escaped = re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", shown(text))
    return escaped.replace("@", "@\u200b")  # a name after it would be called


def code(text: str) -> str:
    """Return a text that can stand between backticks."""
    return shown(text).replace("`", "'")
