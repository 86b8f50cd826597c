"""COCO-style data: its health before training, COCO JSON to training, and small sets that are drawn on the spot."""

from yolo_gradsafe.data.convert import Prepared, PrepareError, prepare
from yolo_gradsafe.data.findings import CheckError, Finding, Health, KindCount
from yolo_gradsafe.data.health import run_check
from yolo_gradsafe.data.quick import quick_check
from yolo_gradsafe.data.shapes import draw_detect, draw_pose

__all__ = [
    "CheckError",
    "Finding",
    "Health",
    "KindCount",
    "PrepareError",
    "Prepared",
    "draw_detect",
    "draw_pose",
    "prepare",
    "quick_check",
    "run_check",
]
