"""COCO JSON to what Ultralytics trains on: converted once, kept in the user's cache, images linked."""

from yolo_gradsafe.data.convert.prepare import Prepared, PrepareError, is_coco, prepare

__all__ = ["PrepareError", "Prepared", "is_coco", "prepare"]
