"""Clipping rules: one clipper a file, one protocol, one registry."""

from yolo_gradsafe.clipping.base import Clip, Clipper, Observation
from yolo_gradsafe.clipping.registry import build

__all__ = ["Clip", "Clipper", "Observation", "build"]
