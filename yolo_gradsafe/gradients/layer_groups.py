"""Where a parameter belongs: its layer, and its stage (backbone, neck, head and the head's branches).

Stages come from the model's own YAML layout and from the names that Ultralytics' heads give their branches. A model
that has no such layout falls back to its top-level modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LayerGroups", "Layout", "ParamLocation", "locate"]

_WRAPPERS = ("module.", "_orig_mod.", "student_model.")
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
class ParamLocation:
    """Where a parameter belongs."""

    layer: str
    """``model.N``, in the head ``model.N.branch``."""
    stage: str
    """``backbone``, ``neck``, or ``head`` with a branch (``head.box``, ``head.one2one.class``, ...)."""


def locate(name: str, layout: Layout) -> ParamLocation:
    """Say where a parameter belongs.

    Args:
        name: Its name; the prefixes of DDP, compile and distillation do not matter.
        layout: The model's layout.
    """
    for wrapper in _WRAPPERS * 2:
        name = name.removeprefix(wrapper)
    parts = name.split(".")
    if not layout.backbone or len(parts) < 3 or parts[0] != "model" or not parts[1].isdigit():
        top = ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]
        return ParamLocation(top, top)
    number = int(parts[1])
    layer = ".".join(parts[:2])
    if number < layout.backbone:
        return ParamLocation(layer, "backbone")
    if number < layout.layers - 1:
        return ParamLocation(layer, "neck")
    return ParamLocation(".".join(parts[:3]), f"head.{_branch(parts[2], layout.task)}")


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


class LayerGroups:
    """Sums what is known of tensors up to their layers and stages, on the host.

    Args:
        names: Every parameter of the model, in its order.
        layout: The model's layout.
    """

    def __init__(self, names: Sequence[str], layout: Layout) -> None:
        self.regroup(names, layout)

    def regroup(self, names: Sequence[str], layout: Layout) -> None:
        """Group the parameters of another model; arguments as those of the class."""
        self._places = {name: locate(name, layout) for name in names}
        self.layers = list(dict.fromkeys(found.layer for found in self._places.values()))
        """Layers in the model's order."""
        self.stages = sorted({found.stage for found in self._places.values()})
        """Stages in alphabetical order: backbone, head and its branches, neck."""
        self.stage_of = {found.layer: found.stage for found in self._places.values()}
        """Stage of each layer."""
        self._names: list[str] = []
        self._layer_index = self._stage_index = np.zeros(0, dtype=np.int64)

    def norms(self, names: list[str], tensor_norms: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Combine the L2 norms of tensors to those of their layers and stages.

        Args:
            names: The tensors, in any part of the model's parameters: frozen ones have no gradient.
            tensor_norms: Their norms.

        Returns:
            Norms in the order of ``layers``, and in the order of ``stages``; nan where none of the tensors belongs: a
            part that is frozen, or was not used.
        """
        if names != self._names:
            layer_number = {layer: i for i, layer in enumerate(self.layers)}
            stage_number = {stage: i for i, stage in enumerate(self.stages)}
            self._names = list(names)
            self._layer_index = np.array([layer_number[self._places[name].layer] for name in names], dtype=np.int64)
            self._stage_index = np.array([stage_number[self._places[name].stage] for name in names], dtype=np.int64)
        squares = np.square(np.asarray(tensor_norms, dtype=np.float64))
        return (
            _root_sums(self._layer_index, squares, len(self.layers)),
            _root_sums(self._stage_index, squares, len(self.stages)),
        )


def _root_sums(index: NDArray[np.int64], squares: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Return the root of each group's sum; nan for a group without a member."""
    sums = np.sqrt(np.bincount(index, squares, minlength=groups))
    return np.where(np.bincount(index, minlength=groups) > 0, sums, np.nan)
