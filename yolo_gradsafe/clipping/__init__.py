"""Clipping rules: one clipper a file, one protocol, one registry."""

from yolo_gradsafe.clipping.base import Clipper, build

__all__ = ["Clipper", "build"]
