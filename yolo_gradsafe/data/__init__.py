"""COCO-style data: so far, small sets that are drawn on the spot."""

from yolo_gradsafe.data.shapes import draw_detect, draw_pose

__all__ = ["draw_detect", "draw_pose"]
