"""Data as labelling tools and people write them: read with the right values, or named with what to do, never lost."""

from __future__ import annotations

import csv
import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.sets import GOOD, POSE, annotation, coco_values, example, keypoint_categories, kinds, picture, yolo_set
from yolo_gradsafe.data import CheckError, PrepareError, prepare, run_check
from yolo_gradsafe.data.convert import for_training

BOX = "0.3125 0.333333 0.375 0.333333"
RIGHT = {"1": [f"0 {BOX}"], "2": [f"1 {BOX}"]}
"""Labels of the set of `coco_values`, by image."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def pictures(folder: Path, *names: str) -> None:
    for k, name in enumerate(names or ("1.jpg", "2.jpg")):
        picture(folder / name, seed=k)


def renamed(*names: str, **values: Any) -> dict[str, Any]:
    """Return the set of `coco_values` with other names of its images."""
    content = coco_values(**values)
    for entry, name in zip(content["images"], names, strict=True):
        entry["file_name"] = name
    return content


def labels(data: Path, split: str = "train") -> dict[str, list[str]]:
    return {path.stem: path.read_text().splitlines() for path in (data.parent / "labels" / split).glob("*.txt")}


def pairs(data: Path, split: str = "train") -> dict[str, list[str]]:
    """Return labels by the file that the image of the same stem leads to."""
    folder = data.parent / "images" / split
    return {path.resolve().name: labels(data, split)[path.stem] for path in folder.iterdir()}


def left_out(data: Path) -> dict[str, str]:
    with (data.parent / "left_out.csv").open(encoding="utf-8", newline="") as file:
        return {row["annotation"]: row["kind"] for row in csv.DictReader(file) if row["annotation"]}


# Names of images -----------------------------------------------------------------------------------------------------

PATHS = {
    "backslash": ("images\\1.jpg", "images\\2.jpg"),
    "label studio": ("images\\7/1.jpg", "images\\7/2.jpg"),
    "of a server": ("../../label-studio/data/media/upload/4/1.jpg", "../../label-studio/data/media/upload/4/2.jpg"),
    "absolute": ("/home/somebody/set/images/1.jpg", "/home/somebody/set/images/2.jpg"),
    "of windows": ("C:\\Users\\me\\set\\1.jpg", "C:\\Users\\me\\set\\2.jpg"),
    "address": ("https://host.example/a/1.jpg?sig=x%20y", "https://host.example/b/2.jpg?sig=z"),
    "bucket": ("s3://bucket/set/1.jpg", "gs://bucket/set/2.jpg"),
    "local files": ("/data/local-files/?d=set%2F1.jpg", "/data/local-files/?d=set/2.jpg"),
    "hashed": ("a1b2c3d4-1.jpg", "0f0e0d0c-2.jpg"),
    "letter case": ("1.JPG", "2.Jpg"),
    "no ending": ("1", "2"),
    "another format": ("1.png", "2.bmp"),
    "dot": ("./1.jpg", "./images/2.jpg"),
    "split": ("train2017/1.jpg", "train2017/2.jpg"),
}


@pytest.mark.parametrize("name", PATHS)
def test_names_of_images_are_matched_by_their_end(tmp_path: Path, cache: Path, name: str) -> None:
    pictures(tmp_path / "images")
    made = prepare(write(tmp_path / "result.json", renamed(*PATHS[name])), "detect", cache=cache)
    assert pairs(made.data) == {f"{stem}.jpg": rows for stem, rows in RIGHT.items()}


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_form(tmp_path: Path, cache: Path, forms: tuple[str, str]) -> None:
    said, stored = (unicodedata.normalize(form, "Straße-é") for form in forms)
    pictures(tmp_path / "images", f"{stored}.jpg", "2.jpg")
    made = prepare(write(tmp_path / "a.json", renamed(f"{said}.jpg", "2.jpg")), "detect", cache=cache)
    assert pairs(made.data) == {f"{stored}.jpg": RIGHT["1"], "2.jpg": RIGHT["2"]}


PLACES = [
    ("labels.json", "data"),
    ("result.json", "images"),
    ("annotations/instances_default.json", "images"),
    ("annotations/instances_default.json", "images/default"),
    ("annotations/instances_train2017.json", "train2017"),
    ("annotations/person_keypoints_train.json", "train2017"),
    ("annotations/train.json", "images/train"),
    ("train/_annotations.coco.json", "train"),
    ("train/labels.json", "train/data"),
    ("a.json", ""),
    ("a.json", "pictures"),
    ("valid.json", "val"),
]


@pytest.mark.parametrize(("json_place", "images_place"), PLACES)
def test_usual_places_of_images(tmp_path: Path, json_place: str, images_place: str) -> None:
    root = tmp_path / "set"
    pictures(root / images_place)
    health = run_check(write(root / json_place, coco_values()))
    assert kinds(health) == {}
    assert health.splits["train"].objects == 2


def test_images_that_are_not_found_are_named_with_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "set" / "a.json", renamed("far/1.jpg", "far/2.jpg"))
    assert kinds(run_check(path)) == {"path_missing": 1, "no_images": 1}
    message = example(run_check(path), "path_missing").message
    assert "none of its 2 images" in message
    assert "'far/1.jpg'" in message
    assert "--images FOLDER" in message
    pictures(tmp_path / "set" / "far", "1.jpg")
    assert "image 2, 'far/2.jpg': no such file" in example(run_check(path), "image_missing").message


def test_frames_of_two_cameras_are_not_guessed(tmp_path: Path) -> None:
    for camera in ("left", "right"):
        pictures(tmp_path / "set" / camera)
    assert "path_missing" in kinds(run_check(write(tmp_path / "set" / "a.json", coco_values())))


def test_images_of_another_split_are_not_taken(tmp_path: Path) -> None:
    pictures(tmp_path / "set" / "train")
    health = run_check(write(tmp_path / "set" / "annotations" / "val.json", coco_values()))
    assert "path_missing" in kinds(health)


# Never the label of another picture ----------------------------------------------------------------------------------


def test_two_entries_that_end_at_one_file(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images", "0001.jpg", "c.jpg")
    content = renamed("a/0001.jpg", "b/0001.jpg")
    content["images"].append({"id": 3, "file_name": "c.jpg", "width": 64, "height": 48})
    content["annotations"].append(annotation(3, image_id=3))
    path = write(tmp_path / "a.json", content)
    assert kinds(run_check(path))["image_ambiguous"] == 2
    made = prepare(path, "detect", cache=cache)
    assert pairs(made.data) == {"c.jpg": RIGHT["1"]}
    assert left_out(made.data) == {"1": "image_ambiguous", "2": "image_ambiguous"}


def test_images_that_come_to_be_found_or_told_apart(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images", "0001.jpg", "c.jpg")
    content = renamed("a\\0001.jpg", "b\\0001.jpg")
    content["images"] += [
        {"id": k, "file_name": name, "width": 64, "height": 48} for k, name in ((3, "c.jpg"), (4, "x\\d.jpg"))
    ]
    content["annotations"] += [annotation(k, image_id=k) for k in (3, 4)]
    path = write(tmp_path / "a.json", content)
    assert pairs(prepare(path, "detect", cache=cache).data) == {"c.jpg": RIGHT["1"]}
    pictures(tmp_path / "images", "d.jpg", "a/0001.jpg", "b/0001.jpg")
    assert labels(prepare(path, "detect", cache=cache).data) == {
        "a_0001": RIGHT["1"],
        "b_0001": RIGHT["2"],
        "c": RIGHT["1"],
        "x_d": RIGHT["1"],
    }
    assert not prepare(path, "detect", cache=cache).fresh


def test_the_whole_name_wins_over_the_end_of_another(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images", "a/0001.jpg")
    made = prepare(write(tmp_path / "a.json", renamed("a/0001.jpg", "b/a/0001.jpg")), "detect", cache=cache)
    assert pairs(made.data) == {"0001.jpg": RIGHT["1"]}
    assert left_out(made.data) == {"2": "image_ambiguous"}


def test_entries_of_two_splits_that_end_at_one_file(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images", "0001.jpg", "2.jpg")
    write(tmp_path / "train.json", renamed("a/0001.jpg", "2.jpg"))
    write(tmp_path / "val.json", renamed("b/0001.jpg", "2.jpg"))
    made = prepare(tmp_path / "train.json", "detect", cache=cache)
    assert pairs(made.data, "train") == pairs(made.data, "val") == {"2.jpg": RIGHT["2"]}


def test_a_file_that_is_listed_twice_gets_all_its_objects(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images", "1.jpg")
    path = write(tmp_path / "a.json", renamed("1.jpg", "./1.jpg"))
    assert kinds(run_check(path)) == {"image_merged": 1}
    assert pairs(prepare(path, "detect", cache=cache).data) == {"1.jpg": [*RIGHT["1"], *RIGHT["2"]]}


def test_a_picture_in_two_jsons_of_a_split_gets_the_objects_of_both(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    for name, entry in (("a", annotation(1)), ("b", annotation(1, category_id=9))):
        write(tmp_path / f"{name}.json", coco_values() | {"annotations": [entry]})
    (tmp_path / "set.yaml").write_text("train: [a.json, b.json]\nval: a.json\n")
    made = prepare(tmp_path / "set.yaml", "detect", cache=cache)
    assert pairs(made.data) == {"1.jpg": [*RIGHT["1"], *RIGHT["2"]], "2.jpg": []}


def test_ids_that_belong_to_two(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images", "1.jpg", "2.jpg", "3.jpg")
    content = renamed("1.jpg", "2.jpg")
    content["images"] += [{"id": 1, "file_name": "3.jpg", "width": 64, "height": 48}]
    content["categories"] += [{"id": 11, "name": "cow"}, {"id": 11, "name": "hen"}]
    content["annotations"] += [annotation(3, image_id=2, category_id=11)]
    made = prepare(write(tmp_path / "a.json", content), "detect", cache=cache)
    assert pairs(made.data) == {"2.jpg": RIGHT["2"]}
    assert left_out(made.data) == {"1": "image_id_duplicate", "3": "category_duplicate"}


# Numbers, ids, crowds ------------------------------------------------------------------------------------------------

ENTRIES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "float ids": ({"id": 1.0, "image_id": 1.0, "category_id": 5.0}, {"json_text": 1}),
    "ids as text": ({"image_id": "1", "category_id": "5"}, {"json_text": 1}),
    "box as text": ({"bbox": ["8", "8.0", "24", " 16"]}, {"json_text": 1}),
    "box as one text": ({"bbox": "[8, 8, 24, 16]"}, {"json_text": 1}),
    "box in a list": ({"bbox": [[8, 8, 24, 16]]}, {}),
    "crowd as text": ({"iscrowd": "0"}, {"json_text": 1}),
    "crowd as word": ({"iscrowd": False}, {}),
    "no crowd": ({"iscrowd": None}, {}),
    "no box, an outline": (
        {"bbox": None, "segmentation": [[8, 8, 32, 8, 32, 24, 8, 24]]},
        {"box_derived": 1},
    ),
    "empty box, a mask": (
        {"bbox": [0, 0, 0, 0], "segmentation": {"size": [48, 64], "counts": [392, *[16, 32] * 23, 16, 1560]}},
        {"box_derived": 1},
    ),
    "outline by corners": ({"segmentation": [[[8, 8], [32, 8], [32, 24], [8, 24]]]}, {}),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_annotation_in_another_form(tmp_path: Path, cache: Path, name: str) -> None:
    values, expected = ENTRIES[name]
    pictures(tmp_path / "images")
    entries = [annotation(1) | values, annotation(2, image_id=2, category_id=9)]
    path = write(tmp_path / "a.json", coco_values() | {"annotations": entries})
    assert kinds(run_check(path)) == expected
    made = prepare(path, "detect", cache=cache)
    assert labels(made.data) == RIGHT
    assert left_out(made.data) == {}


def test_ids_of_images_and_categories_as_text(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    content = coco_values()
    content["images"] = [entry | {"id": str(entry["id"]), "width": "64", "height": 48.0} for entry in content["images"]]
    content["categories"] = [entry | {"id": f"{entry['id']}.0"} for entry in content["categories"]]
    made = prepare(write(tmp_path / "a.json", content), "detect", cache=cache)
    assert {stem: rows[0][2:] for stem, rows in labels(made.data).items()} == {"1": BOX, "2": BOX}


def test_all_of_the_masks_are_crowds(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    path = write(tmp_path / "a.json", coco_values() | {"annotations": [annotation(1, iscrowd=1)]})
    with pytest.raises(PrepareError, match=r"1 left out \(1 crowd\); a crowd region: if each is one object, write"):
        prepare(path, "detect", cache=cache)


def test_half_of_the_masks_are_crowds(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    path = write(tmp_path / "a.json", coco_values([annotation(k, iscrowd="1", bbox=[k, 8, 9, 9]) for k in (3, 4)]))
    health = run_check(path)
    assert (kinds(health), health.warnings) == ({"crowds": 1, "crowd": 2, "json_text": 1}, 2)
    assert "2 of 4 annotations" in example(health, "crowds").message
    assert health.annotations.sum == "4 annotations: 2 labels, 2 left out (2 crowd)"
    assert left_out(prepare(path, "detect", cache=cache).data) == {"3": "crowd", "4": "crowd"}
    (tmp_path / "set.yaml").write_text("train: a.json\nkeep_crowds: true\n")
    assert len(labels(prepare(tmp_path / "set.yaml", "detect", cache=cache).data)["1"]) == 3


# Boxes of another form -----------------------------------------------------------------------------------------------

FORMS = {
    "pascal_voc": [8, 8, 32, 24],
    "albumentations": [0.125, 1 / 6, 0.5, 0.5],
    "yolo": [0.3125, 1 / 3, 0.375, 1 / 3],
    "fiftyone": [0.125, 1 / 6, 0.375, 1 / 3],
}


@pytest.mark.parametrize("form", FORMS)
def test_boxes_whose_form_the_outlines_prove(tmp_path: Path, cache: Path, form: str) -> None:
    pictures(tmp_path / "images")
    outline = {"segmentation": [[8, 8, 32, 8, 32, 24, 8, 24]], "bbox": FORMS[form]}
    entries = [annotation(1) | outline, annotation(2, image_id=2, category_id=9) | outline]
    path = write(tmp_path / "a.json", coco_values() | {"annotations": entries})
    health = run_check(path)
    assert kinds(health) == {"box_format": 1}
    assert "2 of 2 boxes are" in example(health, "box_format").message
    assert labels(prepare(path, "detect", cache=cache).data) == RIGHT


@pytest.mark.parametrize("form", FORMS)
def test_boxes_whose_form_the_user_says(tmp_path: Path, cache: Path, form: str) -> None:
    pictures(tmp_path / "images")
    entries = [annotation(1, bbox=FORMS[form]), annotation(2, image_id=2, category_id=9, bbox=FORMS[form])]
    write(tmp_path / "a.json", coco_values() | {"annotations": entries})
    (tmp_path / "set.yaml").write_text(f"train: a.json\nboxes: {form}\n")
    assert labels(prepare(tmp_path / "set.yaml", "detect", cache=cache).data) == RIGHT


def test_boxes_whose_form_is_not_known_are_not_trained_on(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    for boxes, words in (
        ([[0.1, 0.1, 0.3, 0.4]] * 2, "between 0 and 1"),
        ([[30, 20, 60, 40], [20, 30, 50, 44], [4, 4, 60, 40], [33, 30, 60, 47]], "none as x1 y1 x2 y2"),
    ):
        entries = [annotation(k, bbox=box, area=None) for k, box in enumerate(boxes)]
        path = write(tmp_path / "a.json", coco_values() | {"annotations": entries})
        health = run_check(path)
        assert words in example(health, "box_format_unclear").message
        assert health.annotations is None
        with pytest.raises(PrepareError, match="boxes: pascal_voc"):
            prepare(path, "detect", cache=cache)


def test_areas_prove_corners(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    entries = [annotation(k, bbox=[k, k, k + 20, k + 10], area=200) for k in range(1, 6)]
    path = write(tmp_path / "a.json", coco_values() | {"annotations": entries})
    assert "5 of 5 boxes are x1 y1 x2 y2" in example(run_check(path), "box_format").message


def test_outlines_and_keypoints_as_shares_of_the_image(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    outline = [[0.125, 1 / 6, 0.5, 1 / 6, 0.5, 0.5]]
    points = [0.25, 0.25, 2, 0.375, 0.25, 1, 0, 0, 0]
    entries = [annotation(k, segmentation=outline, keypoints=points, category_id=5) for k in range(1, 5)]
    path = write(tmp_path / "a.json", coco_values(categories=keypoint_categories()) | {"annotations": entries})
    assert kinds(run_check(path, task="pose")) == {"box_format": 2, "box_duplicate": 3}
    assert labels(prepare(path, "segment", cache=cache).data)["1"] == ["0 0.125 0.166667 0.5 0.166667 0.5 0.5"]
    assert labels(prepare(path, "pose", cache=cache).data)["1"] == [f"0 {BOX} 0.25 0.25 2 0.375 0.25 1 0 0 0"]


def test_one_box_that_disagrees_with_its_outline(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    outline = [[8, 8, 32, 8, 32, 24, 8, 24]]
    entries = [annotation(k, segmentation=outline, bbox=[8, 8, 24, 16 - k / 8]) for k in range(1, 5)]
    path = write(
        tmp_path / "a.json",
        coco_values() | {"annotations": [*entries, annotation(7, bbox=[8, 8, 55, 38], segmentation=outline)]},
    )
    health = run_check(path)
    assert kinds(health)["box_outline"] == 1
    assert example(health, "box_outline").annotation == 7
    assert "its outline spans 8 8 32 24" in example(health, "box_outline").message


# Keypoints -----------------------------------------------------------------------------------------------------------

POINTS = [10, 10, 2, 11, 11, 1, 12, 12, 2]
WRITTEN = "0.15625 0.208333 2 0.171875 0.229167 1 0.1875 0.25 2"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ([[10, 10, 2], [11, 11, 1], [12, 12, 2]], WRITTEN),
        ([10.0, "10", 2, 11, 11, "1", 12, 12, 2], WRITTEN),
        ([[10, 10], [11, 11], [0, 0]], "0.15625 0.208333 2 0.171875 0.229167 2 0 0 0"),
        ([10, 10, 11, 11, 0, 0], "0.15625 0.208333 2 0.171875 0.229167 2 0 0 0"),
        ([10, 10, 2, None, None, 0, 12, 12, 2], "0.15625 0.208333 2 0 0 0 0.1875 0.25 2"),
        ([10, 10, 2], "0.15625 0.208333 2 0 0 0 0 0 0"),
    ],
)
def test_keypoints_in_another_form(tmp_path: Path, cache: Path, given: Any, written: str) -> None:
    pictures(tmp_path / "images")
    content = coco_values(categories=keypoint_categories()) | {"annotations": [annotation(1, keypoints=given)]}
    made = prepare(write(tmp_path / "a.json", content), "pose", cache=cache)
    assert labels(made.data)["1"] == [f"0 {BOX} {written}"]


@pytest.mark.parametrize("given", [[10, 10, 2, 11], "none", [*POINTS, 1, 1, 1], [float("nan")] * 9, {"a": 1}])
def test_a_fault_in_the_keypoints_never_costs_the_box(tmp_path: Path, cache: Path, given: Any) -> None:
    pictures(tmp_path / "images")
    entries = [annotation(1, keypoints=given), annotation(2, image_id=2, keypoints=POINTS)]
    content = coco_values(categories=keypoint_categories()) | {"annotations": entries}
    path = write(tmp_path / "a.json", content)
    boxes = prepare(path, "detect", cache=cache)
    assert labels(boxes.data) == {"1": [f"0 {BOX}"], "2": [f"0 {BOX}"]}
    assert left_out(boxes.data) == {}
    assert kinds(run_check(path, task="detect")) == {}
    pose = prepare(path, "pose", cache=cache)
    assert labels(pose.data) == {"1": [], "2": [f"0 {BOX} {WRITTEN}"]}
    assert left_out(pose.data) == {"1": "keypoint_syntax"}
    assert kinds(run_check(path, task="pose"))["keypoint_syntax"] == 1


def test_more_keypoints_than_the_category_names(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    categories = [{"id": 5, "name": "cat", "keypoints": ["left_eye", "right_eye"]}]
    entries = [annotation(k, image_id=k, keypoints=POINTS) for k in (1, 2)]
    path = write(tmp_path / "a.json", coco_values(categories=categories) | {"annotations": entries})
    made = prepare(path, "pose", cache=cache)
    assert labels(made.data)["1"] == [f"0 {BOX} {WRITTEN}"]
    assert "flip_idx" not in yaml.safe_load(made.data.read_text())
    assert (
        "name 2 keypoints, most annotations have 3" in example(run_check(path, task="pose"), "keypoint_names").message
    )


def test_a_box_from_keypoints(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    entries = [annotation(1, bbox=[], keypoints=[8, 8, 2, 32, 24, 1, 0, 0, 0])]
    content = coco_values(categories=keypoint_categories()) | {"annotations": entries}
    made = prepare(write(tmp_path / "a.json", content), "pose", cache=cache)
    assert labels(made.data)["1"][0].startswith(f"0 {BOX} ")
    assert any("taken from its keypoints" in note for note in made.notes)


# Categories ----------------------------------------------------------------------------------------------------------


def test_one_name_for_several_categories(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    categories = [{"id": 5, "name": "Person"}, {"id": 9, "name": "person"}, {"id": 90, "name": "person"}]
    health = run_check(write(tmp_path / "a.json", coco_values(categories=categories)))
    assert kinds(health) == {"category_same_name": 1, "class_unused": 1}
    message = example(health, "category_same_name").message
    assert message == "'Person' (id 5) and 'person' (id 9) and 'person' (id 90) are 3 classes"


def test_names_that_differ_between_splits_in_letter_case(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    write(tmp_path / "train.json", coco_values())
    write(tmp_path / "val.json", coco_values(categories=[{"id": 5, "name": "Cat"}, {"id": 9, "name": "dog"}]))
    health = run_check(tmp_path / "train.json")
    assert example(health, "category_same_name").message == "'cat' (id 5) and 'Cat' (id 5) are 2 classes"


def test_names_of_the_yaml_number_the_classes(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images")
    write(tmp_path / "a.json", coco_values())
    (tmp_path / "set.yaml").write_text("train: a.json\nnames: [bird, dog, cat]\nnc: 3\n")
    made = prepare(tmp_path / "set.yaml", "detect", cache=cache)
    assert yaml.safe_load(made.data.read_text())["names"] == {0: "bird", 1: "dog", 2: "cat"}
    assert labels(made.data) == {"1": [f"2 {BOX}"], "2": [f"1 {BOX}"]}
    (tmp_path / "set.yaml").write_text("train: a.json\nnames: [bird, cat]\n")
    with pytest.raises(PrepareError, match="'names' lacks the category 'dog'"):
        prepare(tmp_path / "set.yaml", "detect", cache=cache)


# YAMLs of JSONs ------------------------------------------------------------------------------------------------------


def test_lists_in_a_yaml(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "images", "1.jpg", "2.jpg", "3.jpg")
    write(tmp_path / "a.json", coco_values())
    third = [{"id": 1, "file_name": "3.jpg", "width": 64, "height": 48}]
    write(tmp_path / "b.json", coco_values(images=third) | {"annotations": [annotation(1)]})
    text = "train: [a.json, {annotations: b.json, images: images}]\nvalid: b.json\nimages: images\n"
    (tmp_path / "set.yaml").write_text(text)
    health = run_check(tmp_path / "set.yaml")
    assert {name: split.objects for name, split in health.splits.items()} == {"train": 3, "val": 1}
    assert health.annotations.total == 4
    made = prepare(tmp_path / "set.yaml", "detect", cache=cache)
    assert labels(made.data) == {**RIGHT, "3": RIGHT["1"]}
    assert labels(made.data, "val") == {"3-2": RIGHT["1"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [a.json, images/train]", "'train' holds 'images/train'"),
        ("train: a.json\nval: images/val", "'val' holds 'images/val'"),
        ("train: {annotation: a.json, annotations: a.json}", "'train' holds 'annotation'"),
        ("train: {annotations: 3}", "'train' holds"),
        ("train: a.json\nval: []", "'val' is an empty list"),
        ("val: a.json", "'train' names no COCO JSON"),
        ("train: a.json\nval: a.json\nvalid: a.json", "'val' and 'valid' name the same split"),
        ("train: a.json\nimagse: images", "'imagse' is not understood"),
        ("train: a.json\nimages: 3", "'images' of 'train' is '3'"),
        ("train: a.json\nsplit: lots", "split is 'lots'"),
        ("train: a.json\nboxes: corners", "boxes is 'corners'"),
        ("train: a.json\nkeep_crowds: some", "keep_crowds is 'some'"),
        ("train: a.json\nnames: 3", "names is '3'"),
        ("train: a.json\nflip_idx: left", "flip_idx is 'left'"),
    ],
)
def test_what_a_yaml_does_not_say_right_is_an_error(tmp_path: Path, cache: Path, text: str, message: str) -> None:
    pictures(tmp_path / "images")
    write(tmp_path / "a.json", coco_values())
    (tmp_path / "set.yaml").write_text(text)
    health = run_check(tmp_path / "set.yaml")
    assert health.errors
    assert message in example(health, "yaml_key").message
    with pytest.raises(PrepareError):
        prepare(tmp_path / "set.yaml", "detect", cache=cache)


# Folders -------------------------------------------------------------------------------------------------------------


def roboflow(root: Path) -> None:
    for split, k in (("train", 1), ("valid", 2), ("test", 3)):
        pictures(root / split, f"{split}.jpg")
        picture(root / split / f"{split}.jpg", seed=k)
        images = [{"id": 0, "file_name": f"{split}.jpg", "width": 64, "height": 48}]
        values = {"images": images, "annotations": [annotation(0, image_id=0)]}
        write(root / split / "_annotations.coco.json", coco_values() | values)
    (root / "README.roboflow.txt").write_text("https://roboflow.com")


def coco(root: Path) -> None:
    for split, k in (("train", 1), ("val", 2)):
        picture(root / f"{split}2017" / f"{split}.jpg", seed=k)
        images = [{"id": 0, "file_name": f"{split}.jpg", "width": 64, "height": 48}]
        values = coco_values() | {"images": images, "annotations": [annotation(0, image_id=0)]}
        write(root / "annotations" / f"instances_{split}2017.json", values)
        write(root / "annotations" / f"captions_{split}2017.json", values)
        keypoints = [annotation(0, image_id=0, keypoints=POINTS)]
        pose = values | {"annotations": keypoints, "categories": keypoint_categories()}
        write(root / "annotations" / f"person_keypoints_{split}2017.json", pose)


def fiftyone(root: Path) -> None:
    for split, k in (("train", 1), ("val", 2)):
        picture(root / split / "data" / f"{split}.jpg", seed=k)
        images = [{"id": 0, "file_name": f"{split}.jpg", "width": 64, "height": 48}]
        write(
            root / split / "labels.json",
            coco_values() | {"images": images, "annotations": [annotation(0, image_id=0)]},
        )


def beside(root: Path) -> None:
    for split, name, k in (("train", "train", 1), ("val", "valid", 2)):
        picture(root / "images" / f"{split}.jpg", seed=k)
        images = [{"id": 0, "file_name": f"{split}.jpg", "width": 64, "height": 48}]
        write(root / f"{name}.json", coco_values() | {"images": images, "annotations": [annotation(0, image_id=0)]})


@pytest.mark.parametrize("layout", [roboflow, coco, fiftyone, beside])
def test_the_folder_of_an_export(tmp_path: Path, cache: Path, layout: Any) -> None:
    root = tmp_path / "set"
    layout(root)
    health = run_check(root)
    assert (health.format, health.errors, health.warnings) == ("coco", 0, 0)
    assert {split.objects for split in health.splits.values()} == {1}
    made = for_training(root, "detect", cache)
    assert made is not None
    assert labels(made.data) == {"train": RIGHT["1"]}
    assert list(labels(made.data, "val").values()) == [RIGHT["1"]]
    if layout is coco:
        pose = for_training(root, "pose", cache)
        assert labels(pose.data) == {"train": [f"0 {BOX} {WRITTEN}"]}


def test_a_folder_in_a_folder_as_archives_have_it(tmp_path: Path, cache: Path) -> None:
    fiftyone(tmp_path / "set" / "set")
    assert run_check(tmp_path / "set").splits["train"].objects == 1
    assert labels(for_training(tmp_path / "set", "detect", cache).data) == {"train": RIGHT["1"]}


def test_a_folder_that_could_mean_several(tmp_path: Path) -> None:
    pictures(tmp_path)
    for name in ("task1", "task2"):
        write(tmp_path / f"{name}.json", coco_values())
    with pytest.raises(CheckError, match=r"task1.json, task2.json\): name one of them"):
        run_check(tmp_path)


@pytest.mark.parametrize("name", ["valid.json", "val.json", "validation.json"])
def test_the_sibling_of_a_training_json(tmp_path: Path, cache: Path, name: str) -> None:
    pictures(tmp_path / "images")
    write(tmp_path / "train.json", coco_values())
    write(tmp_path / name, coco_values())
    assert set(run_check(tmp_path / "train.json").splits) == {"train", "val"}
    assert labels(prepare(tmp_path / "train.json", "detect", cache=cache).data, "val").keys() == {"1-2", "2-2"}


def test_a_yolo_folder_with_the_names_of_its_classes(tmp_path: Path, cache: Path) -> None:
    yolo_set(tmp_path / "set").unlink()
    with pytest.raises(PrepareError, match=r"write classes.txt"):
        for_training(tmp_path / "set", "detect", cache)
    (tmp_path / "set" / "classes.txt").write_text("one\ntwo\n")
    health = run_check(tmp_path / "set")
    assert (health.format, health.classes, kinds(health)) == ("folder", 2, {})
    made = for_training(tmp_path / "set", "detect", cache)
    assert kinds(run_check(made.data)) == {}
    assert yaml.safe_load(made.data.read_text())["names"] == {0: "one", 1: "two"}


def test_cvat_yolo_1_1(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "set"
    pictures(root / "obj_train_data")
    for stem in ("1", "2"):
        (root / "obj_train_data" / f"{stem}.txt").write_text(GOOD)
    (root / "obj.names").write_text("cat\n")
    (root / "obj.data").write_text("classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")
    (root / "train.txt").write_text("data/obj_train_data/1.jpg\ndata/obj_train_data/2.jpg\n")
    made = for_training(root, "detect", cache)
    assert {name: split.objects for name, split in run_check(made.data).splits.items()} == {"train": 2, "val": 2}


def test_a_folder_with_a_data_yaml(tmp_path: Path, cache: Path) -> None:
    data = yolo_set(tmp_path / "set")
    (tmp_path / "set" / "hyp.yaml").write_text("lr0: 0.01\n")
    assert for_training(tmp_path / "set", "detect", cache).data == data
    assert run_check(tmp_path / "set").format == "yolo"


# What is neither YOLO nor COCO ---------------------------------------------------------------------------------------

FOREIGN: dict[str, Any] = {
    "labelme": {"version": "5.0", "shapes": [{"label": "a", "points": [[1, 1], [5, 5]]}], "imagePath": "1.jpg"},
    "VIA": {"1.jpg1234": {"filename": "1.jpg", "size": 1234, "regions": []}},
    "CreateML": [{"image": "1.jpg", "annotations": []}],
    "Label Studio": [{"id": 1, "data": {"image": "1.jpg"}, "annotations": []}],
    "JSON-MIN": [{"image": "1.jpg", "id": 1, "label": [], "annotator": 1}],
    "detection results": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
    "captions": {"images": [], "annotations": [{"image_id": 1, "id": 1, "caption": "a cat"}]},
    "panoptic": {"images": [], "annotations": [{"image_id": 1, "segments_info": []}], "categories": []},
    "BDD100K": [{"name": "1.jpg", "labels": []}],
    "Datumaro": {"info": {}, "categories": {}, "items": []},
    "Supervisely": {"size": {"height": 48, "width": 64}, "objects": []},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_format_is_named_with_the_way_to_convert_it(tmp_path: Path, cache: Path, name: str) -> None:
    pictures(tmp_path / "set")
    path = write(tmp_path / "set" / "x.json", FOREIGN[name])
    message = example(run_check(path), "foreign_format").message
    assert name in message
    with pytest.raises(PrepareError, match="not COCO"):
        for_training(path, "detect", cache)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("Annotations/1.xml", "<annotation><object/></annotation>", "Pascal VOC"),
        ("annotations.xml", '<?xml version="1.0"?><annotations><image id="0" name="1.jpg"/></annotations>', "CVAT"),
        ("_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "a table is not read"),
        ("1.json", json.dumps(FOREIGN["labelme"]), "labelme"),
        ("via_region_data.json", json.dumps(FOREIGN["VIA"]), "VIA"),
    ],
)
def test_a_folder_of_another_format(tmp_path: Path, cache: Path, file: str, content: str, words: str) -> None:
    pictures(tmp_path / "set")
    path = tmp_path / "set" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    assert words in example(run_check(tmp_path / "set"), "foreign_format").message
    with pytest.raises(PrepareError, match=words):
        for_training(tmp_path / "set", "detect", cache)
    if path.suffix != ".json":
        assert words in example(run_check(path), "foreign_format").message


# YOLO sets -----------------------------------------------------------------------------------------------------------


def unread(data: Path) -> dict[str, str]:
    health = run_check(data)
    assert kinds(health).keys() <= {"label_unread", "no_labels", "backgrounds"}
    return {Path(one.image).name: one.message for kind in health.kinds[:1] for one in kind.examples}


def test_labels_that_are_not_read(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"upper": GOOD, "beside": GOOD, "doubled": GOOD, "above": GOOD, "émile": GOOD, "x": ""})
    folder = tmp_path / "labels" / "train"
    (folder / "upper.txt").rename(folder / "upper.TXT")
    (folder / "beside.txt").rename(tmp_path / "images" / "train" / "beside.txt")
    (folder / "doubled.txt").rename(folder / "doubled.jpg.txt")
    (folder / "above.txt").rename(tmp_path / "labels" / "above.txt")
    (folder / "émile.txt").rename(folder / unicodedata.normalize("NFD", "émile.txt"))
    found = unread(data)
    assert found.keys() == {"upper.jpg", "beside.jpg", "doubled.jpg", "above.jpg", "émile.jpg"}
    assert f"Ultralytics reads {folder / 'upper.txt'}" in found["upper.jpg"]
    assert "lies in another folder" in found["beside.jpg"]


def test_labels_that_a_link_leaves_behind(tmp_path: Path) -> None:
    data = yolo_set(tmp_path / "set")
    (tmp_path / "set" / "images" / "train").rename(tmp_path / "store")
    (tmp_path / "set" / "images" / "train").symlink_to(tmp_path / "store")
    assert unread(data).keys() == {"a.jpg", "b.jpg"}


def test_labels_in_another_format_beside_the_images(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"x": GOOD})
    (tmp_path / "labels" / "train" / "x.txt").unlink()
    (tmp_path / "images" / "train" / "x.xml").write_text("<annotation/>")
    assert "Pascal VOC" in unread(data)["x.jpg"]


def test_a_test_set_that_is_not_there_and_files_of_tools(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, test="../test/images")
    for name in ("classes.txt", "._a.txt", ".DS_Store"):
        (tmp_path / "labels" / "train" / name).write_text("one\ntwo\n")
    for name in (".DS_Store", "Thumbs.db", "._a.jpg"):
        (tmp_path / "images" / "train" / name).write_bytes(b"\0\5\26\7")
    health = run_check(data)
    assert (kinds(health), health.errors, health.warnings) == ({"test_missing": 1}, 0, 0)


@pytest.mark.parametrize(
    ("task", "rows", "keys", "kind"),
    [
        ("pose", GOOD, {}, "task_keypoints"),
        ("segment", GOOD, {}, "label_box"),
        ("obb", GOOD, {}, "label_box"),
        ("segment", "0 0.1 0.1 0.5 0.1 0.5 0.5\n", {}, None),
        ("detect", "0 0.1 0.1 0.5 0.1 0.5 0.5\n", {}, None),
        ("pose", POSE, {"kpt_shape": [2, 3], "flip_idx": [1, 0]}, None),
    ],
)
def test_the_check_of_a_task(tmp_path: Path, task: str, rows: str, keys: dict[str, Any], kind: str | None) -> None:
    data = yolo_set(tmp_path, **keys)
    for label in tmp_path.glob("labels/*/*.txt"):
        label.write_text(rows)
    assert (kind in kinds(run_check(data, task=task))) if kind else not run_check(data, task=task).errors


def test_a_task_without_labels_of_objects(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="task 'classify': expected one of detect, pose, segment, obb"):
        run_check(yolo_set(tmp_path), task="classify")


def test_a_copied_set_is_converted_anew(tmp_path: Path, cache: Path) -> None:
    pictures(tmp_path / "a" / "images")
    first = prepare(write(tmp_path / "a" / "x.json", coco_values()), "detect", cache=cache)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = prepare(tmp_path / "b" / "x.json", "detect", cache=cache)
    assert first.data != second.data
    assert os.path.realpath(second.data.parent / "images" / "train" / "1.jpg").startswith(str(tmp_path / "b"))
