"""COCO JSON: every entry that is not what it should be has a finding with its id, and none ends the check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.sets import annotation, coco_set, coco_values, example, keypoint_categories, kinds, picture
from yolo_gradsafe.data import run_check

NAN = float("nan")

WRONG: dict[str, tuple[Any, str, str]] = {
    "strings": (annotation(7, bbox=["a", "b", "c", "d"]), "json_structure", "bbox is ['a', 'b', 'c', 'd']"),
    "three numbers": (annotation(7, bbox=[1, 2, 3]), "json_structure", "bbox is [1, 2, 3]"),
    "no box": (annotation(7, bbox=None), "json_structure", "bbox is None"),
    "box of lists": (annotation(7, bbox=[[1], 2, 3, 4]), "json_structure", "bbox"),
    "true": (annotation(7, bbox=[True, 2, 3, 4]), "json_structure", "bbox"),
    "nan": (annotation(7, bbox=[NAN, 2, 3, 4]), "label_nonfinite", "bbox is [nan, 2, 3, 4]"),
    "infinite": (annotation(7, bbox=[10**400, 2, 3, 4]), "label_nonfinite", "bbox"),
    "no width": (annotation(7, bbox=[8, 8, 0, 4]), "box_degenerate", "width 0"),
    "negative": (annotation(7, bbox=[8, 8, -4, 4]), "box_degenerate", "width -0.0625"),
    "outside": (annotation(7, bbox=[80, 8, 4, 4]), "box_range", "centre"),
    "over the edge": (annotation(7, bbox=[60, 8, 8, 8]), "box_beyond_edge", "6.2%"),
    "crowd": (annotation(7, iscrowd=1), "crowd", "a crowd region"),
    "unknown category": (annotation(7, category_id=77), "category_unknown", "category_id 77"),
    "category in a list": (annotation(7, category_id=[5]), "category_unknown", "category_id [5]"),
    "unknown image": (annotation(7, image_id="x"), "image_unknown", "image_id 'x'"),
    "crowd or not": (annotation(7, iscrowd="maybe"), "json_structure", "iscrowd is 'maybe', expected 0 or 1"),
    "area": (annotation(7, bbox=[1, 2, 3, 4], area=0), "", ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_annotation_is_found_with_its_id(tmp_path: Path, name: str) -> None:
    entry, kind, message = WRONG[name]
    data = coco_set(tmp_path, [entry])
    if kind == "":
        assert kinds(run_check(data)) == {}
        return
    health = run_check(data)
    found = kinds(health)
    assert found.pop(kind) == 1
    assert set(found) <= {"box_duplicate", "crowds"}
    finding = example(health, kind)
    assert message in finding.message
    assert (finding.annotation, finding.file, finding.line) == (7, str(data), None)


def test_an_area_of_zero_with_keypoints(tmp_path: Path) -> None:
    entry = annotation(7, keypoints=[10, 10, 2, 0, 0, 0, 12, 12, 1], area=0, bbox=[9, 9, 9, 9])
    health = run_check(coco_set(tmp_path, [entry], categories=keypoint_categories()))
    assert kinds(health)["area"] == 1
    assert example(health, "area").annotation == 7


@pytest.mark.parametrize(
    ("keypoints", "kind"),
    [
        ([10, 10, 2, 11, 11, 2, 12, 12], "keypoint_syntax"),
        ([10, 10, "2", 11, 11, 2, 12, 12, 2], "json_text"),
        ([10, 10, "two", 11, 11, 2, 12, 12, 2], "keypoint_syntax"),
        ("10 10 2", "keypoint_syntax"),
        ([[10, 10, 2], [11, 11], [12, 12, 2]], "keypoint_syntax"),
        ([10, 10, 2] * 4, "keypoint_syntax"),
        ([10, 10, NAN, 11, 11, 2, 12, 12, 2], "keypoint_syntax"),
        ([NAN, 10, 2, 11, 11, 2, 12, 12, 2], "keypoint_syntax"),
        ([10, 10, 5, 11, 11, 2, 12, 12, 2], "keypoint_visibility"),
        ([10, 100, 2, 11, 11, 2, 12, 12, 2], "keypoint_dropped"),
        ([60, 40, 2, 11, 11, 2, 12, 12, 2], "keypoint_outside_box"),
        ([0] * 9, "keypoint_none"),
        (None, "keypoint_none"),
    ],
)
def test_wrong_keypoints_are_found(tmp_path: Path, keypoints: Any, kind: str) -> None:
    good = annotation(1, keypoints=[10, 10, 2, 11, 11, 2, 12, 12, 1])
    bad = annotation(7, keypoints=keypoints, bbox=[8, 8, 12, 12])
    path = coco_set(tmp_path, categories=keypoint_categories(), annotations=[])
    path.write_text(json.dumps(coco_values(categories=keypoint_categories()) | {"annotations": [good, bad]}))
    health = run_check(path)
    assert kinds(health) == ({kind: 1, "keypoint_none": 1} if kind == "keypoint_syntax" else {kind: 1})
    assert kind == "json_text" or example(health, kind).annotation == 7


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"annotations": None}, {"json_structure": 1, "no_labels": 1}),
        ({"annotations": {}}, {"json_structure": 1, "no_labels": 1}),
        ({"categories": "none"}, {"json_structure": 1, "category_unknown": 2, "no_labels": 1}),
        ({"images": []}, {"image_unknown": 2, "no_images": 1}),
        ({"images": [3, {"id": None}, {"id": 1}]}, {"json_structure": 3, "image_unknown": 1, "no_images": 1}),
        ({"annotations": ["a", 3, None, []]}, {"json_structure": 4, "no_labels": 1}),
        ({"annotations": [{}]}, {"image_unknown": 1, "no_labels": 1}),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 9}, {"id": 9, "name": "b"}]}, {"category_duplicate": 2}),
        ({"annotations": [annotation(1), annotation(1, image_id=2, category_id=9)]}, {"annotation_id_duplicate": 1}),
        ({"annotations": [annotation(None), annotation([], image_id=2, category_id=9)]}, {}),
    ],
)
def test_a_wrong_structure_is_found(tmp_path: Path, values: dict[str, Any], expected: dict[str, int]) -> None:
    path = coco_set(tmp_path)
    path.write_text(json.dumps(coco_values() | values))
    assert kinds(run_check(path)) == expected


def test_images_that_are_not_as_they_are_described(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "1.jpg", "width": 64, "height": 48},
        {"id": 1, "file_name": "2.jpg", "width": 64, "height": 48},
        {"id": 2, "file_name": "2.jpg", "width": 48, "height": 64},
        {"id": 3, "file_name": "nowhere.jpg", "width": 64, "height": 48},
        {"id": 4, "file_name": "1.gif", "width": 64, "height": 48},
        {"id": 5, "file_name": "a\0b.jpg", "width": 64, "height": 48},
        {"id": 6, "file_name": "half.jpg"},
    ]
    path = coco_set(tmp_path, [annotation(3, image_id=6, bbox=[8, 8, 28, 8])], images=images)
    picture(tmp_path / "images" / "half.jpg", seed=9, size=(32, 24))
    health = run_check(path)
    expected = ("image_id_duplicate", "image_size", "image_missing", "image_format", "json_structure")
    assert {kind: kinds(health)[kind] for kind in expected} == dict.fromkeys(expected, 1)
    assert "48 x 64, the file is 64 x 48" in example(health, "image_size").message
    assert kinds(health)["box_beyond_edge"] == 1, "a size that is not stated is read from the file"


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2", "nul", "{'a': 1}", '{"images": [', "[" * 100_000, "\ufeff{]", "9" * 5000, '"\ud800"'[:1]]
)
def test_malformed_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    health = run_check(path)
    assert kinds(health).get("json_syntax") == 1
    assert example(health, "json_syntax").file == str(path)
    path.write_bytes(b"\xff\xfe{}")
    assert kinds(run_check(path))["json_syntax"] == 1


def test_the_line_of_a_json_mistake(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"images": [],\n "annotations": [}')
    found = example(run_check(tmp_path / "bad.json"), "json_syntax")
    assert found.line == 2
    assert "column 18" in found.message


def test_images_are_found_where_they_usually_are(tmp_path: Path) -> None:
    for place in ("train2017", "images/train2017", "images"):
        root = tmp_path / place.replace("/", "-")
        json_file = root / "annotations" / "instances_train2017.json"
        json_file.parent.mkdir(parents=True)
        json_file.write_text(json.dumps(coco_values()))
        for k in (1, 2):
            picture(root / place / f"{k}.jpg", seed=k)
        health = run_check(json_file)
        assert kinds(health) == {}, place
        assert health.images_read == 2
    alone = tmp_path / "far" / "away" / "alone.json"
    alone.parent.mkdir(parents=True)
    alone.write_text(json.dumps(coco_values()))
    assert "path_missing" in kinds(run_check(alone))
    assert kinds(run_check(alone, images=tmp_path / "images" / "images")) == {}


def test_a_yaml_that_names_jsons(tmp_path: Path) -> None:
    coco_set(tmp_path / "a")
    coco_set(tmp_path / "b", categories=[{"id": 1, "name": "dog"}, {"id": 5, "name": "cow"}, {"id": 9, "name": "cat"}])
    data = tmp_path / "both.yaml"
    data.write_text("train: a/annotations.json\nval: {annotations: b/annotations.json, images: b/images}\n")
    health = run_check(data)
    assert (health.format, health.classes) == ("coco", 3)
    assert {name: split.objects for name, split in health.splits.items()} == {"train": 2, "val": 2}
