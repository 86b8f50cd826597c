"""The drawn sets: labels agree with pixels, the same call gives the same files, and Ultralytics reads them."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from ultralytics.data import YOLODataset
from ultralytics.data import utils as data_utils

from yolo_gradsafe.data import draw_detect, draw_pose

Draw = Callable[..., Path]
both = pytest.mark.parametrize("draw", [draw_detect, draw_pose])
TINY = {"train": 6, "val": 3, "size": 64}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a data set is drawn and read without the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def samples(data: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each image (H, W, 3) BGR with its label rows (N, 5 or 17)."""
    for path in sorted(data.parent.glob("images/*/*.jpg")):
        label = data.parent / "labels" / path.parent.name / f"{path.stem}.txt"
        yield cv2.imread(str(path)), np.loadtxt(label, ndmin=2)


def contents(data: Path) -> dict[str, bytes]:
    """Return every file of the set but data.yaml, which names its folder, by its place in the folder."""
    return {str(p.relative_to(data.parent)): p.read_bytes() for p in data.parent.glob("*/*/*.*")}


def edges(row: np.ndarray, size: int) -> np.ndarray:
    """Return a box's x1, y1, x2, y2 in whole pixels."""
    x, y, w, h = row[1:5] * size
    return np.rint([x - w / 2, y - h / 2, x + w / 2, y + h / 2]).astype(int)


@both
def test_layout(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "a new" / "set", **TINY)
    content = yaml.safe_load(data.read_text(encoding="utf-8"))
    assert (data.name, content["path"]) == ("data.yaml", str(data.parent))
    for split in ("train", "val"):
        images = sorted(path.stem for path in (data.parent / content[split]).glob("*.jpg"))
        labels = sorted(path.stem for path in (data.parent / "labels" / split).glob("*.txt"))
        assert images == labels == [f"{i:04d}" for i in range(TINY[split])]
    assert not [path for path in tmp_path.rglob(".*")], "nothing is left behind"
    if draw is draw_pose:
        assert content["kpt_shape"] == [4, 3]
        assert content["flip_idx"] == [0, 3, 2, 1], "right and left change places"


@both
@pytest.mark.parametrize("size", [64, 128])
def test_boxes_are_normalised_and_tight_around_the_colour(tmp_path: Path, draw: Draw, size: int) -> None:
    data, seen = draw(tmp_path / "set", train=24, val=8, size=size), set()
    for image, rows in samples(data):
        assert image.shape == (size, size, 3)
        assert 1 <= len(rows) <= 3
        coloured = np.ptp(image.astype(int), axis=2) > 70  # the background is next to grey
        for row in rows:
            seen.add(int(row[0]))
            x1, y1, x2, y2 = edges(row, size)
            assert min(x1, y1, size - x2, size - y2) >= 0
            inside = coloured[y1:y2, x1:x2]
            assert inside.mean() > 0.3
            if not (len(row) > 5 and (row[7::3] == 0).any()):  # a covered corner hides the end of its kite
                ys, xs = np.nonzero(inside)
                found = [x1 + xs.min(), y1 + ys.min(), x1 + xs.max() + 1, y1 + ys.max() + 1]
                assert np.abs(np.subtract(found, [x1, y1, x2, y2])).max() <= 2  # JPEG blurs the tip of a corner
            coloured[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
        assert not coloured.any(), "colour outside every box"
    assert seen == set(yaml.safe_load(data.read_text(encoding="utf-8"))["names"])


def test_a_class_has_its_colour(tmp_path: Path) -> None:
    for image, rows in samples(draw_detect(tmp_path / "set")):
        for row in rows:
            x, y = (row[1:3] * 128).astype(int)
            assert image[y, x].argmax() == 2 - row[0]  # circle: red, square: green, triangle: blue; channels are BGR


def test_keypoints_lie_inside_their_box_on_its_edges(tmp_path: Path) -> None:
    flags = []
    for image, rows in samples(draw_pose(tmp_path / "set", train=48)):
        for row in rows:
            size = image.shape[0]
            x1, y1, x2, y2 = edges(row, size)
            points = row[5:].reshape(4, 3)
            assert set(points[:, 2]) <= {0.0, 2.0}
            assert not points[points[:, 2] == 0].any(), "COCO's unlabelled keypoint is all zero"
            flags += points[:, 2].tolist()
            kept = points[points[:, 2] == 2] * size
            assert ((kept[:, :2] > [x1, y1]) & (kept[:, :2] < [x2, y2])).all()
            if len(kept) == 4:  # top, right, bottom, left: their pixels span the box
                assert kept[0, 1] < kept[2, 1]
                assert kept[3, 0] < kept[1, 0]
                low, high = kept[:, :2].min(axis=0) - 0.5, kept[:, :2].max(axis=0) + 0.5
                assert np.allclose([*low, *high], [x1, y1, x2, y2], atol=0.01)
    assert 0 < flags.count(0.0) < 0.1 * len(flags)


@both
def test_a_set_follows_from_its_arguments(tmp_path: Path, draw: Draw) -> None:
    one = contents(draw(tmp_path / "a", **TINY))
    assert one == contents(draw(tmp_path / "b", **TINY))
    reseeded = contents(draw(tmp_path / "c", **TINY, seed=1))
    assert one.keys() == reseeded.keys()
    assert not [name for name in one if one[name] == reseeded[name]]
    more = contents(draw(tmp_path / "d", **{**TINY, "train": 8}))
    assert one.items() < more.items(), "more images keep the first ones"
    images = [value for name, value in more.items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images), "the splits share no image"


@both
def test_drawing_again_touches_nothing(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "set", **TINY)
    (data.parent / "labels" / "train.cache").write_bytes(b"what Ultralytics keeps beside the labels")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert draw(tmp_path / "set", **TINY) == data
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@both
@pytest.mark.parametrize("other", [{"train": 5}, {"val": 2}, {"size": 96}, {"seed": 1}])
def test_other_arguments_replace_the_set(tmp_path: Path, draw: Draw, other: dict[str, int]) -> None:
    draw(tmp_path / "set", **TINY)
    replaced = contents(draw(tmp_path / "set", **{**TINY, **other}))
    assert replaced == contents(draw(tmp_path / "fresh", **{**TINY, **other}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "set"]


def test_a_set_that_lost_an_image_or_moved_is_drawn_again(tmp_path: Path) -> None:
    data = draw_detect(tmp_path / "old", **TINY)
    before = contents(data)
    (data.parent / "images" / "train" / "0003.jpg").unlink()
    assert contents(draw_detect(tmp_path / "old", **TINY)) == before
    folder = data.parent.rename(tmp_path / "größe: #1 'x'")
    assert yaml.safe_load(draw_detect(folder, **TINY).read_text(encoding="utf-8"))["path"] == str(folder)


@pytest.mark.parametrize("name", ["data.yaml", "images", "notes.txt"])
def test_foreign_files_are_never_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="choose another folder"):
        draw_detect(tmp_path, **TINY)
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_run_saved_inside_the_set_is_never_removed(tmp_path: Path) -> None:
    (draw_detect(tmp_path, **TINY).parent / "runs").mkdir()
    with pytest.raises(FileExistsError, match="choose another folder"):
        draw_detect(tmp_path, **TINY, seed=1)
    assert draw_detect(tmp_path, **TINY).is_file()


@both
@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": 31}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, draw: Draw, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        draw(tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()


def test_a_set_drawn_by_another_process_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "set", Path.replace

    def late(self: Path, target: Path) -> Path:
        if Path(target) == folder:
            monkeypatch.undo()
            draw_detect(folder, **TINY)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", late)
    assert contents(draw_detect(folder, **TINY)) == contents(draw_detect(tmp_path / "alone", **TINY))


@pytest.mark.parametrize(("draw", "task"), [(draw_detect, "detect"), (draw_pose, "pose")])
def test_ultralytics_reads_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Draw, task: str) -> None:
    monkeypatch.setattr(data_utils, "check_font", lambda *_: None)  # else it looks for Arial on the network
    data = data_utils.check_det_dataset(str(draw(tmp_path / "set", **TINY)))
    for split in ("train", "val"):
        dataset = YOLODataset(img_path=data[split], data=data, task=task, imgsz=64, augment=False)
        cache = data_utils.load_dataset_cache_file(tmp_path / "set" / "labels" / f"{split}.cache")
        assert cache["results"] == (TINY[split], 0, 0, 0, TINY[split])  # found, missing, empty, corrupt, all
        assert cache["msgs"] == []
        assert dataset[0]["img"].shape == (3, 64, 64)
        assert ("keypoints" in dataset[0]) == (task == "pose")
