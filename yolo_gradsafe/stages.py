"""Where a parameter belongs: its layer, and its stage (backbone, neck, head and the head's branches).

Stages come from the model's own YAML layout and from the names that Ultralytics' heads give their branches. A model
that has no such layout falls back to its top-level modules.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Layout", "Place", "place"]

_WRAPPERS = ("module.", "_orig_mod.")
_BRANCHES = {"cv2": "box", "dfl": "box", "cv3": "class", "proto": "mask", "flow_model": "flow"}
_BY_TASK = {"pose": "keypoint", "segment": "mask", "obb": "angle"}
_DETR = (("_bbox_head", "box"), ("_score_head", "class"), ("class_embed", "class"))


@dataclass(frozen=True)
class Layout:
    """How a model is put together."""

    backbone: int
    """Modules of ``model.model`` that are the backbone; 0 where the model has no layout."""
    layers: int
    """Modules of ``model.model`` in all; the last is the head."""
    task: str = "detect"
    """Task, which tells what the head's fourth branch predicts."""


@dataclass(frozen=True)
class Place:
    """Where a parameter belongs."""

    layer: str
    """``model.N``, in the head ``model.N.branch``."""
    stage: str
    """``backbone``, ``neck``, or ``head`` with a branch (``head.box``, ``head.one2one.class``, ...)."""


def place(name: str, layout: Layout) -> Place:
    """Say where a parameter belongs.

    Args:
        name: Its name; the prefixes of DDP and compile do not matter.
        layout: The model's layout.
    """
    for wrapper in _WRAPPERS * 2:
        name = name.removeprefix(wrapper)
    parts = name.split(".")
    if not layout.backbone or len(parts) < 3 or parts[0] != "model" or not parts[1].isdigit():
        top = ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]
        return Place(top, top)
    number = int(parts[1])
    layer = ".".join(parts[:2])
    if number < layout.backbone:
        return Place(layer, "backbone")
    if number < layout.layers - 1:
        return Place(layer, "neck")
    return Place(".".join(parts[:3]), f"head.{_branch(parts[2], layout.task)}")


def _branch(module: str, task: str) -> str:
    """Name what a module of the head predicts."""
    one2one = module.startswith("one2one_")
    root = module.removeprefix("one2one_").split("_")[0]
    if module in _BRANCHES:
        branch = _BRANCHES[module]
    elif root == "cv4":
        branch = _BY_TASK.get(task, "extra")
    elif root in _BRANCHES:
        branch = _BRANCHES[root]
    else:
        branch = next((name for end, name in _DETR if module.endswith(end)), "decoder")
    return f"one2one.{branch}" if one2one else branch
