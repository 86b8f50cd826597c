"""Fills the templates: text is escaped, Plotly comes compressed within the page."""

from __future__ import annotations

import base64
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from yolo_gradsafe.report.console import shown

__all__ = ["asset", "render"]


def render(template: str, **values: Any) -> str:
    """Fill a template of ``assets/``; every value in it is text unless it says otherwise."""
    environment = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"asset": lambda name: Markup(asset(name)), "plotly": _plotly}
    environment.filters |= {"script": _script, "shown": shown}
    text = environment.get_template(template).render(values)
    return text.encode("utf-8", "replace").decode()  # a file name may hold half a character


def asset(name: str) -> str:
    """Return one of our own files: a template, a style sheet or a script."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> Markup:
    """Return Plotly's script as it is kept, compressed: 0.7 MB of base64, which the browser unpacks."""
    packed = (files(__package__) / "assets" / "plotly" / "plotly-cartesian.min.js.gz").read_bytes()
    return Markup(base64.b64encode(packed).decode())


def _script(value: Any) -> Markup:
    """Return a value as JSON that no text in it can end the script element of."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
