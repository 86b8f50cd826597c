"""What goes wrong with a report."""

from __future__ import annotations

__all__ = ["ReportError"]


class ReportError(ValueError):
    """There is nothing to report on, or not what was expected; the message names the folder or file."""
