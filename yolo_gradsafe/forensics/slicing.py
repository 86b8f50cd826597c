"""A part of a batch, or the same batch in another order, with every key kept consistent.

A batch is what Ultralytics' loaders collate: some values have an entry for every image (``img``, ``im_file``), some for
every object (``cls``, ``bboxes``, ``keypoints``), and ``batch_idx`` says which image an object is in. Without
``batch_idx`` (classification) everything is by image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["image_name", "images_in", "objects_of", "pick"]

_BY_OBJECT = {"batch_idx", "cls", "bboxes", "keypoints", "segments", "obb"}
_BY_IMAGE = {"img", "im_file", "ori_shape", "resized_shape", "ratio_pad", "sem_masks", "semantic_mask", "depth"}


def images_in(batch: Mapping[str, Any]) -> int:
    """Return the number of images of a batch."""
    return len(batch["img"])


def image_name(batch: Mapping[str, Any], index: int) -> str:
    """Return the file of an image, or its place in the batch, from 1, where the batch has no names."""
    files = batch.get("im_file", ())
    return str(files[index]) if index < len(files) else f"image {index + 1} of the batch"


def objects_of(batch: Mapping[str, Any], index: int) -> Tensor:
    """Return the numbers of the objects in an image, (N,), on the device of ``batch_idx``; empty without one."""
    if "batch_idx" not in batch:
        return torch.zeros(0, dtype=torch.long)
    owners: Tensor = batch["batch_idx"]
    return (owners.view(-1).long() == index).nonzero().view(-1)


def pick(batch: Mapping[str, Any], indices: Sequence[int]) -> dict[str, Any]:
    """Return a batch of these images, in this order; one may come twice.

    Args:
        batch: A collated batch, before or after it was preprocessed; it is left as it is. Masks may have an entry for
            every image (``overlap_mask``) or for every object.
        indices: Images, from 0, at least one.

    Returns:
        A new batch whose tensors are copies, on their devices. ``batch_idx`` is numbered anew, and the objects are in
        the order of the images. What belongs neither to images nor to objects is handed on as it is.
    """
    images = images_in(batch)
    owners = batch.get("batch_idx")
    rows: list[Tensor] = [objects_of(batch, index) for index in indices] if owners is not None else []
    chosen = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)
    picked: dict[str, Any] = {}
    for key, value in batch.items():
        if key == "batch_idx" and owners is not None:
            numbers = [torch.full((len(row),), new, dtype=owners.dtype) for new, row in enumerate(rows)]
            picked[key] = torch.cat(numbers).to(owners.device).view(-1, *owners.shape[1:])
        elif _by_object(key, value, images, owners):
            picked[key] = _take(value, chosen.tolist())
        elif _by_image(key, value, images):
            picked[key] = _take(value, list(indices))
        else:
            picked[key] = value
    return picked


def _by_object(key: str, value: Any, images: int, owners: Tensor | None) -> bool:
    if owners is None or not _sized(value) or len(value) != len(owners.view(-1)):
        return False
    # Masks are by image where they can be: overlapping ones are Ultralytics' default.
    return key in _BY_OBJECT or (key not in _BY_IMAGE and len(value) != images)


def _by_image(key: str, value: Any, images: int) -> bool:
    return _sized(value) and len(value) == images


def _sized(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.ndim > 0)


def _take(value: Any, indices: list[int]) -> Any:
    if isinstance(value, Tensor):
        return value[torch.tensor(indices, dtype=torch.long, device=value.device)]
    return type(value)(value[i] for i in indices) if isinstance(value, (list, tuple)) else value
