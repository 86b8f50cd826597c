"""What the check can find: every kind of finding, how bad it is, what it does to a training, and what to do about it.

``error``: the training loses the file, or fails, or its loss can become non-finite. ``warning``: it trains, with larger
gradients or with other labels than were meant. ``note``: worth knowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HOPELESS", "KINDS", "SEVERITIES", "Kind", "Severity"]

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    severity: Severity
    meaning: str
    """What it does to a training, a phrase."""
    remedy: str
    """What to do about it, a phrase in the imperative."""


_LOST = "Ultralytics leaves out the whole image"
_EXPORT = "export the set again"
_FIX_ROW = "correct or remove the line, then delete the .cache file beside the labels"


def _error(meaning: str, remedy: str) -> Kind:
    return Kind("error", meaning, remedy)


def _warning(meaning: str, remedy: str) -> Kind:
    return Kind("warning", meaning, remedy)


def _note(meaning: str, remedy: str) -> Kind:
    return Kind("note", meaning, remedy)


KINDS: dict[str, Kind] = {
    # The set as a whole.
    "yaml_syntax": _error("the data YAML cannot be read", "correct the line that is named"),
    "yaml_key": _error("the data YAML lacks a key, or holds a wrong value", "correct the key that is named"),
    "path_missing": _error(
        "a folder or list of images is not there", "correct its path in the YAML, or name the folder"
    ),
    "test_missing": _note("the folder of 'test' is not there; training needs none", "remove 'test' from the YAML"),
    "path_loop": _warning(
        "a link leads back up: Ultralytics reads its images many times over", "remove the link that is named"
    ),
    "foreign_format": _error("neither YOLO labels nor COCO JSON: it is not read", "convert it as the message says"),
    "no_images": _error("no image to train on", "look at the other findings, and at the path of 'train'"),
    "no_labels": _error(
        "no object in the training images: nothing to learn from",
        "look at the other findings; label files belong into 'labels', as the images lie in 'images'",
    ),
    "task_keypoints": _error("a pose model needs keypoints", "add kpt_shape to the YAML, or train a detect model"),
    "task_outlines": _error(
        "a segment or OBB model needs outlines", "export polygons or masks, or train a detect model"
    ),
    "label_box": _error(
        "a box where the task needs an outline: Ultralytics then ignores the outlines of the whole set",
        "write the object's outline, or train a detect model",
    ),
    "outline_missing": _warning(
        "a box without an outline: the model learns a mask shaped like the box", "draw its outline, or remove it"
    ),
    "kpt_shape": _error("keypoints cannot be read without a right kpt_shape", "write kpt_shape: [COUNT, 3]"),
    "flip_idx": _error(
        "a flipped image gets wrong keypoints, or the training fails",
        "write for each keypoint the number of its mirror image, from 0",
    ),
    "flip_idx_pairs": _warning(
        "a keypoint's mirror has another mirror: flipped images get wrong keypoints", "let both name each other"
    ),
    "flip_idx_missing": _note(
        "without flip_idx Ultralytics turns off flips", "add flip_idx where left and right can change places"
    ),
    "json_syntax": _error("the annotations cannot be read", f"{_EXPORT}; the file may be cut off"),
    "json_structure": _error("the entry is left out", "correct or remove the entry"),
    "json_text": _warning(
        "numbers are written as text or in another form; they are read anyway", "write them as plain numbers"
    ),
    "image_id_duplicate": _error(
        "one image id belongs to several images: their annotations are left out", "give each image an id of its own"
    ),
    "image_ambiguous": _error(
        "which file the image means is not known: it is left out with its annotations",
        "keep the folders of the images, or give each file a name of its own",
    ),
    "image_merged": _warning(
        "a file is listed under several ids: it gets the annotations of all", "list each image once"
    ),
    "annotation_id_duplicate": _warning(
        "two annotations share an id; both are used", "give each annotation its own id"
    ),
    "image_unknown": _error(
        "the annotation's image is not in the file; it is left out", "add the image, or remove the annotation"
    ),
    "category_unknown": _error(
        "the annotation's category is not in the file; it is left out", "add the category, or remove the annotation"
    ),
    "category_duplicate": _error(
        "one category id belongs to several names: its annotations are left out", "give each category its own id"
    ),
    "category_same_name": _warning(
        "categories of the same name are trained as different classes", "merge them where they mean the same"
    ),
    "split_overlap": _warning(
        "images are in the training and in the validation set: the accuracy looks too good",
        "take them out of one of the two",
    ),
    "split_copy": _warning(
        "a copy of a training image is validated on: the accuracy looks too good", "take it out of one of the two"
    ),
    "split_near": _warning(
        "nearly the same picture is used for training and validation: the accuracy looks too good",
        "split by scene or video, so that neighbouring frames stay together",
    ),
    "label_shared": _warning("two images share one label file", "rename one image together with its label file"),
    "label_orphan": _warning("a label file without an image: it is never read", "add the image, or remove the file"),
    "label_unread": _error(
        "labels lie where Ultralytics does not read them: the image counts as empty", "rename or move the label file"
    ),
    "last_batch": _warning(
        "an epoch ends with a batch of one image: batch norm learns from it alone", "choose another batch size"
    ),
    "backgrounds": _warning("most training images have no object", "check that labels are found; else drop some"),
    "class_unused": _note("classes without an object", "nothing, unless they should have some"),
    "cache_npy": _warning("training reads the .npy beside the image instead of the image", "delete the .npy files"),
    "cache_npy_nonfinite": _error(
        "the .npy beside the image, which training reads instead, makes the loss NaN", "delete the .npy file"
    ),
    # Images.
    "image_missing": _error("the image is not there", "put it there, or remove its entry"),
    "image_unreadable": _error("training fails on the image or leaves it out", "replace or remove the file"),
    "image_unchecked": _note("a format that needs a plugin for Pillow; not checked", "pip install pillow-heif"),
    "image_truncated": _error("the file ends too early: Ultralytics leaves it out", "copy or download it again"),
    "image_corrupt": _warning(
        "broken data inside the file: part of the picture is grey or smeared", "copy or download it again"
    ),
    "image_tail": _warning("bytes after the end of the JPEG; Ultralytics rewrites the file", "save the image again"),
    "image_format": _error("Ultralytics does not read files of this format", "convert the image to JPEG or PNG"),
    "image_tiny": _error("smaller than 10 pixels: Ultralytics leaves it out", "remove the image"),
    "image_nonfinite": _error("NaN or infinite pixels make the loss NaN", "repair or remove the image"),
    "image_float": _warning(
        "pixels that are not 8-bit integers: training divides them by 255 as they are", "save it with 8 bits a channel"
    ),
    "image_16bit": _warning(
        "training keeps the high byte of 16-bit pixels only: dark images turn black", "scale it to 8 bits yourself"
    ),
    "image_channels": _warning(
        "another number of channels than the model reads; they are dropped or made up", "save all images alike"
    ),
    "image_grey": _note("grey images in a set of three channels", "nothing: they are read as three equal channels"),
    "image_constant": _warning("every pixel is the same: nothing to learn from", "remove the image"),
    "image_size": _error(
        "the file has another size than its annotations say: boxes land elsewhere",
        "annotate the file as it is; an image that was turned or scaled needs its boxes turned or scaled",
    ),
    # Label files.
    "label_unreadable": _error(_LOST, "save the file as UTF-8 text that can be read"),
    "label_syntax": _error(f"not a number; {_LOST}", _FIX_ROW),
    "label_columns": _error(f"a wrong number of columns; {_LOST}", _FIX_ROW),
    "label_mixed": _error(f"boxes and outlines in one file; {_LOST}", "write all objects of a file alike"),
    "label_nonfinite": _error(f"NaN or infinite; {_LOST}", _FIX_ROW),
    "class_id": _error(f"no such class; {_LOST}", "count classes from 0, and name them all in the YAML"),
    # Boxes.
    "box_range": _error(
        "outside the image; Ultralytics leaves out the whole image, conversion the annotation",
        "divide pixels by the image's width and height, and remove what is not in the image",
    ),
    "box_degenerate": _error(
        "no width or height: nothing to learn from, and zero to divide by", "draw the box again, or remove it"
    ),
    "box_beyond_edge": _warning(
        "reaches beyond the image; training clips it", "nothing, if few; else check the format of the boxes"
    ),
    "box_subpixel": _warning("under one pixel at the training size: noise for the loss", "remove it or raise imgsz"),
    "box_aspect": _warning(
        "so long and thin that its loss is noisy; from 100 to 1 augmentation drops it",
        "check the box; tile long images",
    ),
    "box_duplicate": _warning("the same box and class twice", "remove one of the two"),
    "box_derived": _warning("a box is missing; it is taken from the outline or the keypoints", "check one of them"),
    "box_outline": _warning(
        "box and outline disagree; detection uses the box, segmentation the outline", "correct the one that is wrong"
    ),
    "box_format": _warning(
        "boxes, outlines or keypoints are not in COCO's format; they are read in the format that fits",
        "check a few labels",
    ),
    "box_format_unclear": _error(
        "boxes do not look like x y width height in pixels: they are not used for training",
        "name their format in a YAML: 'boxes: pascal_voc' (or coco, albumentations, yolo, fiftyone)",
    ),
    "box_rotated": _warning("a rotated box is used as if it were upright", "train an obb model, or draw it again"),
    "crowded": _warning(
        "so many objects in one image that assignment may run out of memory", "tile the image, or lower batch"
    ),
    "area": _warning(
        "an area that is not positive: COCO's evaluation divides by it; training takes the box", "correct the area"
    ),
    "crowd": _note("crowd regions: a conversion leaves them out, as COCO's evaluation does", "nothing"),
    "crowds": _warning(
        "a notable share of the annotations is crowd regions, which are left out; brush tools mark single objects so",
        "if each is one object, write 'keep_crowds: true' into a YAML, or export without masks",
    ),
    # Keypoints.
    "keypoint_syntax": _error(
        "keypoints cannot be read: pose leaves the object out, detection uses its box", "correct the keypoints"
    ),
    "keypoint_names": _warning(
        "annotations have more keypoints than their category names; all are used, without flips", "name them all"
    ),
    "keypoint_visibility": _warning("visibility other than 0, 1 or 2", "write 2 for visible, 1 for hidden, 0 for none"),
    "keypoint_outside_image": _error(
        "outside the image; Ultralytics leaves out the whole image", "write 0 0 0 for a keypoint outside the image"
    ),
    "keypoint_dropped": _warning(
        "outside the image: the conversion marks it as not labelled", "nothing, if few; else check the keypoints"
    ),
    "keypoint_outside_box": _warning(
        "visible keypoint far outside its box: the OKS loss is large", "check that box and keypoints belong together"
    ),
    "keypoint_none": _note(
        "objects without a labelled keypoint: a conversion to pose leaves them out", "nothing, or label keypoints"
    ),
    "oks_area": _error(
        "visible keypoints in a box with almost no area: the OKS loss divides by it", "draw the box again, or remove it"
    ),
}
HOPELESS = ("yaml_syntax", "yaml_key", "foreign_format", "no_images", "no_labels", "task_keypoints", "label_box")
"""Findings after which a training cannot begin, or learns nothing."""
