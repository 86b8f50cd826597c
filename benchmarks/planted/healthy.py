"""Batches with which nothing is wrong: nobody must be accused."""

from __future__ import annotations

from benchmarks.planted.scene import DETECT, OBB, POSE, RT_DETR, SEGMENT, V8, Fault, Scene, Truth
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["FAULTS"]


def _nothing(scene: Scene) -> None:
    """Plant nothing."""


def _small_boxes(scene: Scene) -> None:
    """Let an image have no objects, and another boxes without an area."""
    keep = scene.batch["batch_idx"].view(-1) != 1
    for key in ("batch_idx", "bboxes", "cls", "keypoints"):
        if key in scene.batch:
            scene.batch[key] = scene.batch[key][keep]
    scene.batch["bboxes"][0, 2:4] = 0


FAULTS = [
    Fault(f"healthy: {_model.split('.')[0]} in {_precision}", _nothing,
          Truth(Cause.TRANSIENT, precision=_precision), _model, _precision)
    for _model in (DETECT, V8, POSE, SEGMENT, OBB, RT_DETR) for _precision in ("fp32", "fp16", "bf16")
]  # fmt: skip
FAULTS += [
    Fault(f"healthy: empty image and box, {_model.split('.')[0]}", _small_boxes, Truth(Cause.TRANSIENT), _model)
    for _model in (DETECT, V8, POSE, RT_DETR)
]
