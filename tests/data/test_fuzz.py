"""Whatever stands in a label file or a JSON: the check ends with findings, never with an exception."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ultralytics.data.utils import verify_image_label

from tests.data.sets import TWO_POINTS, annotation, coco_set, coco_values, keypoint_categories, yolo_set
from yolo_gradsafe.data import Health, PrepareError, prepare, run_check
from yolo_gradsafe.data.findings import Annotations
from yolo_gradsafe.data.health import TASKS
from yolo_gradsafe.data.health_table import table
from yolo_gradsafe.data.read.labels import parse
from yolo_gradsafe.data.read.source import Item, Layout

fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

NUMBERS = st.one_of(
    st.floats(), st.integers(-2, 3), st.floats(-0.1, 1.1), st.sampled_from([0, 0.5, 1e-12, 1e308, -1e308, 2**64])
)
WORDS = st.one_of(
    NUMBERS.map(repr),
    st.sampled_from(["nan", "-inf", "1e999", "1_0", "0x1", "cat", "\0", "½", "٣"]),
    st.text(max_size=3),
)
LINES = st.lists(WORDS, min_size=0, max_size=13).map(" ".join)
TEXTS = st.one_of(st.lists(LINES, max_size=6).map("\n".join).map(str.encode), st.binary(max_size=60))
TIDY = st.tuples(st.integers(0, 2), *[st.sampled_from([-0.5, -0.005, 0, 0.001, 0.3, 0.5, 0.7, 1, 1.005, 1.2])] * 4)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.integers(),
    st.text(max_size=4),
    st.sampled_from([1, 2, 5, 9, 10**30, "1", "\ud800"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
BOXES = st.lists(NUMBERS, min_size=4, max_size=4)
OUTLINES = (
    st.lists(st.lists(st.floats(-5, 70) | st.integers(-5, 70), max_size=8), max_size=3)
    | st.fixed_dictionaries({}, optional={"size": st.just([48, 64]) | VALUES, "counts": VALUES | st.text("0159:?Qo")})
    | VALUES
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "id": SCALARS,
        "image_id": st.sampled_from([1, 2]) | SCALARS,
        "category_id": st.sampled_from([5, 9]) | SCALARS,
        "bbox": BOXES | VALUES,
        "keypoints": st.lists(NUMBERS, min_size=9, max_size=9) | VALUES,
        "segmentation": OUTLINES,
        "attributes": st.fixed_dictionaries({}, optional={"rotation": SCALARS}) | VALUES,
        "area": SCALARS,
        "iscrowd": st.sampled_from([0, 1, "0", "1"]) | VALUES,
    },
)
IMAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": SCALARS,
        "file_name": st.sampled_from(["1.jpg", "2.jpg", ".."]) | VALUES,
        "width": SCALARS,
        "height": SCALARS,
    },
)
CATEGORIES = st.fixed_dictionaries({}, optional={"id": SCALARS, "name": VALUES, "keypoints": VALUES})


def sound(health: Health) -> None:
    """Whatever was found can be shown, saved and loaded."""
    assert Health.model_validate_json(health.to_json()) == health
    text = table(health)
    assert all(line.isprintable() for line in text.splitlines())
    assert health.warning.isprintable()
    assert all(kind.count >= len(kind.examples) > 0 for kind in health.kinds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz
@given(content=TEXTS, pose=st.booleans(), outline=st.booleans())
def test_any_label_file(folder: Path, content: bytes, pose: bool, outline: bool) -> None:
    place = folder / f"labels-{pose}"
    data = place / "data.yaml" if place.exists() else yolo_set(place, {"x": ""}, **(TWO_POINTS if pose else {}))
    (place / "labels" / "train" / "x.txt").write_bytes(content)
    sound(run_check(data, task="detect" if outline else None, sheet=place / "sheet.jpg"))


@settings(fuzz, max_examples=200)
@given(rows=st.lists(TIDY, max_size=4))
def test_what_ultralytics_refuses_is_an_error_here(folder: Path, rows: list[tuple[float, ...]]) -> None:
    place = folder / "compared"
    data = place / "data.yaml" if place.exists() else yolo_set(place, {"x": ""})
    label, image = place / "labels" / "train" / "x.txt", place / "images" / "train" / "x.jpg"
    label.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    refused = verify_image_label((str(image), str(label), "", False, 2, 0, 0, False))[0] is None
    health = run_check(data, read_images=False)
    if refused:
        assert health.errors
    elif not any(min(row[3:]) <= 0 for row in rows):
        assert not health.errors, "but for boxes without area, what Ultralytics takes is no error"


@settings(fuzz, max_examples=200)
@given(content=TEXTS, points=st.sampled_from([0, 1, 2]), dims=st.sampled_from([2, 3]))
def test_parsed_rows_are_finite_and_of_one_length(content: bytes, points: int, dims: int) -> None:
    rows, found = parse(content, Item("i.jpg", "l.txt"), Layout(2, points, dims))
    assert all(len(row.values) == 5 + 3 * points and np.isfinite(row.values).all() for row in rows)
    lines = [one.line for one in found if one.line] + [row.place for row in rows]
    assert len(set(lines)) == len(lines), "a line is a row or a finding"


@fuzz
@given(entries=st.lists(ENTRIES | VALUES, max_size=4), points=st.booleans())
def test_any_annotations(folder: Path, entries: list[Any], points: bool) -> None:
    values = coco_values([annotation(8, keypoints=[9] * 9), *entries])
    values["categories"] = keypoint_categories() if points else values["categories"]
    check_json(folder / "annotations", json.dumps(values).encode())


@fuzz
@given(
    images=VALUES | st.lists(IMAGES, max_size=3),
    categories=VALUES | st.lists(CATEGORIES, max_size=3),
    annotations=VALUES | st.lists(ENTRIES, max_size=3),
)
def test_any_structure(folder: Path, images: Any, categories: Any, annotations: Any) -> None:
    values = {"images": images, "categories": categories, "annotations": annotations}
    check_json(folder / "structure", json.dumps(values).encode())


NAMES = st.sampled_from(
    ["images/train", "annotations.json", "train.txt", ".", "nowhere", "\0", "x" * 300, "", "data.yaml"]
)
KEYS = ("path", "train", "val", "test", "names", "nc", "kpt_shape", "flip_idx", "channels", "images", "validation")
SHAPES = st.lists(st.integers(-1, 3), max_size=3)
YAMLS = st.fixed_dictionaries(
    {}, optional={key: NAMES | SHAPES | VALUES.filter(lambda v: not isinstance(v, str)) for key in KEYS}
)


@settings(fuzz, max_examples=150)
@given(values=YAMLS | VALUES)
def test_any_yaml(folder: Path, values: Any) -> None:
    place = folder / "yaml"
    data = place / "data.yaml"
    if not place.exists():
        yolo_set(place)
        coco_set(place)
    data.write_text(json.dumps(values), encoding="utf-8")
    sound(run_check(data))
    if isinstance(values, dict):
        sound(run_check({**values, "path": values.get("path", str(place))}))


@fuzz
@given(values=VALUES | st.binary(max_size=40))
def test_any_json(folder: Path, values: Any) -> None:
    check_json(folder / "any", values if isinstance(values, bytes) else json.dumps(values).encode())


def check_json(place: Path, content: bytes) -> None:
    path = place / "annotations.json" if place.exists() else coco_set(place)
    path.write_bytes(content)
    sound(run_check(path, sheet=place / "sheet.jpg"))
    for task in TASKS:
        health = run_check(path, task=task)
        sound(health)
        adds_up(health.annotations)
        with TemporaryDirectory() as cache:
            try:
                made = prepare(path, task, cache=Path(cache))
            except PrepareError:
                continue
            assert not run_check(made.data, task=task).errors, "what was converted can be trained on"
            labels, left = written(made.data.parent)
            assert health.annotations is not None
            assert (labels, left) == (health.annotations.labels, health.annotations.left_out), "the check said so"


def adds_up(told: Annotations | None) -> None:
    """Every annotation is a label or left out, once."""
    assert told is None or told.labels + sum(told.left_out.values()) == told.total


def written(folder: Path) -> tuple[int, dict[str, int]]:
    """Return the labels of a conversion, and the annotations that it lists as left out, by kind."""
    labels = sum(len(path.read_text().splitlines()) for path in folder.glob("labels/*/*.txt"))
    with (folder / "left_out.csv").open(encoding="utf-8", newline="") as file:
        return labels, dict(Counter(row["kind"] for row in csv.DictReader(file) if row["annotation"]))


NAMES_OF_IMAGES = ["1.jpg", "2.jpg", "x/1.jpg", "a\\1.jpg", "1.JPG", "nowhere.jpg", "2", "./2.jpg"]
SPLITS = st.sampled_from(["a.json", "b.json", "images", 3, None]) | st.fixed_dictionaries(
    {}, optional={"annotations": st.sampled_from(["a.json", "b.json", 3]), "images": st.sampled_from(["images", "no"])}
)
JSONS = st.sampled_from(["a.json", "b.json"]) | st.fixed_dictionaries({"annotations": st.just("a.json")})
RIGHT_LAYOUTS = st.fixed_dictionaries(
    {"train": JSONS | st.lists(JSONS, min_size=1, max_size=3)},
    optional={"val": JSONS | st.lists(JSONS, max_size=2), "images": st.just("images"), "keep_crowds": st.booleans()},
)
LAYOUTS = st.fixed_dictionaries(
    {"train": SPLITS | st.lists(SPLITS, max_size=3)},
    optional={
        "val": SPLITS | st.lists(SPLITS, max_size=2),
        "valid": SPLITS,
        "images": st.sampled_from(["images", ".", 3]),
        "keep_crowds": st.sampled_from([True, False, "some"]),
        "split": st.sampled_from([0.5, 2, "half"]),
        "boxes": st.sampled_from(["coco", "pascal_voc", "yolo", "other"]),
    },
)
TIDY_ENTRIES = st.fixed_dictionaries(
    {
        "id": st.integers(1, 9),
        "image_id": st.sampled_from([1, 2, "1", 2.0, 3]),
        "category_id": st.sampled_from([5, 9, "5", 7]),
        "bbox": st.lists(st.integers(0, 40), min_size=4, max_size=4),
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
    }
)


@settings(fuzz, max_examples=150)
@given(
    values=RIGHT_LAYOUTS | LAYOUTS,
    names=st.lists(st.sampled_from(NAMES_OF_IMAGES), min_size=4, max_size=4),
    one=st.lists(TIDY_ENTRIES, max_size=6),
    two=st.lists(TIDY_ENTRIES, max_size=6),
)
def test_any_layout_adds_up(folder: Path, values: Any, names: list[str], one: list[Any], two: list[Any]) -> None:
    place = folder / "layouts"
    if not place.exists():
        coco_set(place)
    for name, entries, images in (("a", one, names[:2]), ("b", two, names[2:])):
        content = coco_values() | {"annotations": entries}
        content["images"] = [
            {"id": k, "file_name": image, "width": 64, "height": 48} for k, image in enumerate(images, 1)
        ]
        (place / f"{name}.json").write_text(json.dumps(content))
    data = place / "set.yaml"
    data.write_text(json.dumps(values))
    health = run_check(data, task="detect")
    sound(health)
    adds_up(health.annotations)
    with TemporaryDirectory() as cache:
        try:
            made = prepare(data, "detect", cache=Path(cache))
        except PrepareError:
            return
        assert health.annotations is not None
        assert health.annotations.total == made_of(values, len(one), len(two))
        assert written(made.data.parent) == (health.annotations.labels, health.annotations.left_out)


def made_of(values: dict[str, Any], one: int, two: int) -> int:
    """Return how many annotations the JSONs of a layout hold."""
    flat = [entry for key in ("train", "val", "valid") for entry in _flat(values.get(key))]
    return sum({"a.json": one, "b.json": two}[entry] for entry in flat)


def _flat(given: Any) -> list[str]:
    entries = given if isinstance(given, list) else [given]
    return [entry["annotations"] if isinstance(entry, dict) else entry for entry in entries if entry is not None]
