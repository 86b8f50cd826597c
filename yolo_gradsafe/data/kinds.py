"""What the check can find: every kind of finding, how bad it is, and what it does to a training.

``error``: the training loses the file, or fails, or its loss can become non-finite. ``warning``: it trains, with larger
gradients or with other labels than were meant. ``note``: worth knowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["KINDS", "SEVERITIES", "Kind", "Severity"]

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    severity: Severity
    meaning: str
    """What it does to a training, a phrase."""


_LOST = "Ultralytics leaves out the whole image"


def _error(meaning: str) -> Kind:
    return Kind("error", meaning)


def _warning(meaning: str) -> Kind:
    return Kind("warning", meaning)


def _note(meaning: str) -> Kind:
    return Kind("note", meaning)


KINDS: dict[str, Kind] = {
    # The set as a whole.
    "yaml_syntax": _error("the data YAML cannot be read"),
    "yaml_key": _error("the data YAML lacks a key, or holds a wrong value"),
    "path_missing": _error("a folder or list of images is not there"),
    "path_loop": _warning("a link leads back up: Ultralytics reads its images many times over"),
    "no_images": _error("no image to train on"),
    "no_labels": _error("no object in the training images: nothing to learn from"),
    "kpt_shape": _error("keypoints cannot be read without a right kpt_shape"),
    "flip_idx": _error("a flipped image gets wrong keypoints, or the training fails"),
    "flip_idx_pairs": _warning("a keypoint's mirror has another mirror: flipped images get wrong keypoints"),
    "flip_idx_missing": _note("without flip_idx Ultralytics turns off flips"),
    "json_syntax": _error("the annotations cannot be read"),
    "json_structure": _error("the entry is left out"),
    "image_id_duplicate": _error("two images share an id; the later one is left out"),
    "annotation_id_duplicate": _warning("two annotations share an id; both are used"),
    "image_unknown": _error("the annotation's image is not in the file; it is left out"),
    "category_unknown": _error("the annotation's category is not in the file; it is left out"),
    "category_duplicate": _error("two categories share an id; the later one is left out"),
    "split_overlap": _warning("images are in the training and in the validation set: validation flatters"),
    "label_shared": _warning("two images share one label file"),
    "label_orphan": _warning("a label file without an image: it is never read"),
    "last_batch": _warning("an epoch ends with a batch of one image: batch norm learns from it alone"),
    "backgrounds": _warning("most training images have no object"),
    "class_unused": _note("classes without an object"),
    "cache_npy": _warning("training reads the .npy beside the image instead of the image"),
    "cache_npy_nonfinite": _error("the .npy beside the image, which training reads instead, makes the loss NaN"),
    # Images.
    "image_missing": _error("the image is not there"),
    "image_unreadable": _error("training fails on the image or leaves it out"),
    "image_unchecked": _note("a format that needs a plugin of Pillow's; not looked at"),
    "image_truncated": _error("the file ends too early: Ultralytics leaves it out"),
    "image_tail": _warning("bytes after the end of the JPEG; Ultralytics rewrites the file"),
    "image_format": _error("Ultralytics does not read files of this format"),
    "image_tiny": _error("smaller than 10 pixels: Ultralytics leaves it out"),
    "image_nonfinite": _error("NaN or infinite pixels make the loss NaN"),
    "image_float": _warning("pixels that are not 8-bit integers: training divides them by 255 as they are"),
    "image_16bit": _warning("training keeps the high byte of 16-bit pixels only: dark images turn black"),
    "image_channels": _warning("another number of channels than the model reads; they are dropped or made up"),
    "image_grey": _note("grey images in a set of three channels"),
    "image_constant": _warning("every pixel is the same: nothing to learn from"),
    "image_size": _error("the file has another size than its annotations say: boxes land elsewhere"),
    # Label files.
    "label_unreadable": _error(_LOST),
    "label_syntax": _error(f"not a number; {_LOST}"),
    "label_columns": _error(f"a wrong number of columns; {_LOST}"),
    "label_mixed": _error(f"boxes and outlines in one file; {_LOST}"),
    "label_nonfinite": _error(f"NaN or infinite; {_LOST}"),
    "class_id": _error(f"no such class; {_LOST}"),
    # Boxes.
    "box_range": _error("outside the image; Ultralytics leaves out the whole image, conversion the annotation"),
    "box_degenerate": _error("no width or height: nothing to learn from, and zero to divide by"),
    "box_beyond_edge": _warning("reaches beyond the image; training clips it"),
    "box_subpixel": _warning("under one pixel at the training size: noise for the loss"),
    "box_aspect": _warning("so long and thin that its loss is noisy; from 100 to 1 augmentation drops it"),
    "box_duplicate": _warning("the same box and class twice"),
    "crowded": _warning("so many objects in one image that assignment may run out of memory"),
    "area": _warning("an area that is not positive: COCO's evaluation divides by it; training takes the box"),
    "crowd": _note("crowd regions: a conversion leaves them out, as COCO's evaluation does"),
    # Keypoints.
    "keypoint_visibility": _warning("visibility other than 0, 1 or 2"),
    "keypoint_outside_image": _error("outside the image; Ultralytics leaves out the whole image"),
    "keypoint_outside_box": _warning("visible keypoint far outside its box: the OKS loss is large"),
    "keypoint_none": _note("objects without a labelled keypoint: a conversion to pose leaves them out"),
    "oks_area": _error("visible keypoints in a box of next to no area: the OKS loss divides by it"),
}
