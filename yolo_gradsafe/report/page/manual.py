"""The pages of the documentation that come with the package: ``scripts/render_docs.py`` makes them from ``docs/``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from markupsafe import Markup

from yolo_gradsafe.report.page.template import asset

__all__ = ["ManualPage", "manual"]


class ManualPage(NamedTuple):
    """A page of the documentation, as HTML that stands within a report."""

    title: Markup
    body: Markup


def manual(names: Iterable[str]) -> dict[str, ManualPage]:
    """Return pages in the order in which they are named first; the name is that of the file in ``assets/docs``."""
    return {name: _read(name) for name in names}


def _read(name: str) -> ManualPage:
    heading, _, body = asset(f"docs/{name}.html").partition("\n")
    return ManualPage(Markup(heading.removeprefix("<h1>").removesuffix("</h1>")), Markup(body))
