"""The built-in clipping rules, one a file: its options, its class, its name. A file put here is found."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from yolo_gradsafe.clipping.registry import built_in_rules

__all__ = ["BUILT_IN"]

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")

BUILT_IN = built_in_rules()
"""All of them, in the order in which options, presets and docs have them."""
