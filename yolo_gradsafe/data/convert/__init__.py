"""COCO JSON to what Ultralytics trains on: converted once, kept in the user's cache, images linked."""

from yolo_gradsafe.data.convert.prepare import Prepared, PrepareError, for_training, prepare

__all__ = ["PrepareError", "Prepared", "for_training", "prepare"]
