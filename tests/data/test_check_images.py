"""Image files: what training would trip over is found, and every file is read and decoded once."""

from __future__ import annotations

import builtins
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.sets import GOOD, example, kinds, picture, yolo_set
from yolo_gradsafe.data import run_check
from yolo_gradsafe.data.checks import images as images_module
from yolo_gradsafe.data.worst_images import make_tile

Write = Callable[[Path], object]


def noise(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape).astype(dtype)


def encoded(ending: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(ending, pixels)[1].tobytes()


def nan_pixels() -> np.ndarray:
    pixels = noise((48, 64, 3), np.float32)
    pixels[3, 4] = np.nan
    return pixels


def on_its_side(path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise((48, 64, 3))).save(path, exif=exif)


def wrote(ending: str, pixels: np.ndarray, end: int | None = None, more: bytes = b"") -> Write:
    return lambda path: path.write_bytes(encoded(ending, pixels)[:end] + more)


def jpg(end: int | None = None, more: bytes = b"") -> Write:
    return wrote(".jpg", noise((48, 64, 3)), end, more)


def png(pixels: np.ndarray, end: int | None = None) -> Write:
    return wrote(".png", pixels, end)


def tif(pixels: np.ndarray) -> Write:
    return wrote(".tif", pixels)


WRONG: dict[str, tuple[str, Write, dict[str, int], str]] = {
    "empty": ("x.jpg", lambda p: p.write_bytes(b""), {"image_unreadable": 1}, "an empty file"),
    "text": ("x.jpg", lambda p: p.write_text("no image"), {"image_unreadable": 1}, "no image"),
    "folder": ("x.jpg", lambda p: p.mkdir(), {"image_unreadable": 1}, "a folder"),
    "pipe": ("x.jpg", lambda p: os.mkfifo(p), {"image_unreadable": 1}, "a pipe"),
    "dead link": ("x.jpg", lambda p: p.symlink_to("nowhere"), {"image_missing": 1}, "a link to nothing"),
    "looped link": ("x.jpg", lambda p: p.symlink_to("x.jpg"), {"image_unreadable": 1}, "symbolic links"),
    "cut jpeg": ("x.jpg", jpg(end=-400), {"image_truncated": 1}, ""),
    "cut png": ("x.png", png(noise((48, 64, 3)), -400), {"image_truncated": 1}, ""),
    "tail": ("x.jpg", jpg(more=b"more"), {"image_tail": 1}, "end mark"),
    "gif": ("x.jpg", lambda p: Image.fromarray(noise((48, 64, 3))).save(p, "GIF"), {"image_format": 1}, "a GIF"),
    "tiny": ("x.png", png(noise((9, 64, 3))), {"image_tiny": 1}, "64 x 9 pixels"),
    "alpha": ("x.png", png(noise((48, 64, 4))), {"image_channels": 1}, "4 channels (RGBA)"),
    "grey": ("x.png", png(noise((48, 64))), {"image_grey": 1}, "one channel"),
    "cmyk": ("x.jpg", lambda p: Image.fromarray(noise((48, 64, 4)), "CMYK").save(p), {"image_channels": 1}, "CMYK"),
    "16 bit": ("x.png", png(noise((48, 64, 3), np.uint16)), {"image_16bit": 1}, "brightest 255"),
    "float": ("x.tif", tif(noise((48, 64, 3), np.float32)), {"image_unreadable": 1, "image_float": 1}, "no image"),
    "nan": ("x.tif", tif(nan_pixels()), {"image_unreadable": 1, "image_nonfinite": 1}, "no image"),
    "grey float": ("x.tif", tif(noise((48, 64), np.float32)), {"image_unreadable": 1}, "OpenCV cannot decode"),
    "constant": ("x.png", png(np.full((48, 64, 3), 7, np.uint8)), {"image_constant": 1}, "7 7 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_image_is_found(tmp_path: Path, name: str) -> None:
    file, write, expected, message = WRONG[name]
    data = yolo_set(tmp_path)
    path = tmp_path / "images" / "train" / file
    write(path)
    (tmp_path / "labels" / "train" / "x.txt").write_text(GOOD)
    health = run_check(data, sheet=tmp_path / "sheet.jpg")
    assert kinds(health) == expected
    found = example(health, next(iter(expected)))
    assert message in found.message
    assert found.image == found.file == str(path)


def test_an_image_on_its_side_has_its_turned_size(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"x": "0 0.5 0.5 0.02 0.98\n"})  # 0.96 by 63: thin as it was held, not as it is stored
    on_its_side(tmp_path / "images" / "train" / "x.jpg")
    health = run_check(data, imgsz=64)
    assert kinds(health) == {"box_subpixel": 1, "box_aspect": 1}
    assert "0.96 x 62.7 pixels" in example(health, "box_subpixel").message


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.full((48, 64, 3), np.nan, np.float32), "cache_npy_nonfinite"),
        (np.zeros((48, 64, 3), np.float32), "cache_npy"),
        (np.zeros((48, 64, 3), np.uint8), None),
        (np.array([{"an": "object"}], dtype=object), None),
    ],
)
def test_the_array_that_training_reads_in_place_of_an_image(
    tmp_path: Path, array: np.ndarray, kind: str | None
) -> None:
    data = yolo_set(tmp_path)
    np.save(tmp_path / "images" / "train" / "a.npy", array)
    assert kinds(run_check(data)) == ({kind: 1} if kind else {})


def test_every_file_is_read_and_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {f"{k}": f"0 nan {k} 0 0\n{GOOD}" for k in range(30)}
    data = yolo_set(tmp_path, labels)
    opened, decoded = Counter[str](), Counter[int]()
    real_open, real_decode = builtins.open, images_module._decode

    def count_open(file: Any, *args: Any, **keys: Any) -> Any:
        opened[str(file)] += 1
        return real_open(file, *args, **keys)

    def count_decode(content: bytes) -> Any:
        decoded[id(content)] += 1
        return real_decode(content)

    monkeypatch.setattr(builtins, "open", count_open)
    monkeypatch.setattr(images_module, "_decode", count_decode)
    health = run_check(data, sheet=tmp_path / "sheet.jpg")
    assert health.images_read == 33
    files = {name: count for name, count in opened.items() if name.endswith((".jpg", ".txt")) and "sheet" not in name}
    assert len(files) == 66
    assert set(files.values()) == {1}
    assert sum(decoded.values()) == 33


def test_the_sheet_shows_the_worst(tmp_path: Path) -> None:
    labels = {f"{k:02}": GOOD + f"0 0.5 0.5 0.001 0.0{k % 9 + 1}\n" for k in range(20)}
    labels["worst"] = "0 0.4 0.4 0.3 0.3\n0 2 0.5 0.1 0.1\n5 0.5 0.5 0 0.1\n"
    data = yolo_set(tmp_path, labels)
    sheet = tmp_path / "new" / "sheet.png"
    run_check(data, sheet=sheet)
    pixels = cv2.imread(str(sheet))
    assert pixels.shape == (32 + 4 * 288 + 8, 4 * 328 + 8, 3)
    frame = pixels[33, 10:320]
    assert (frame == (26, 0, 230)).all(), "the worst comes first, framed in red"
    assert not (pixels[33, 338:640] == (26, 0, 230)).all(), "a warning has no red frame"


def test_no_sheet_where_all_is_well(tmp_path: Path) -> None:
    run_check(yolo_set(tmp_path), sheet=tmp_path / "sheet.jpg")
    assert not (tmp_path / "sheet.jpg").exists()


def test_labels_only_reads_no_image(tmp_path: Path) -> None:
    data = yolo_set(tmp_path)
    (tmp_path / "images" / "train" / "a.jpg").write_bytes(b"")
    health = run_check(data, read_images=False)
    assert kinds(health) == {}
    assert (health.images_read, health.complete) == (0, False)


def test_a_big_image_is_shrunk_onto_the_sheet(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"x": "0 0.5 0.5 nan 0.1"})
    picture(tmp_path / "images" / "train" / "x.jpg", size=(2000, 100))
    run_check(data, sheet=tmp_path / "sheet.jpg")
    assert (tmp_path / "sheet.jpg").stat().st_size > 1000


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_absurd_boxes_are_drawn() -> None:
    boxes = np.array([[np.inf, 0.5, np.inf, 0.1], [0.5, 1e308, 1e308, 1e308], [-np.inf, 0, np.nan, 0], [0.5] * 4])
    points = np.array([[[np.nan, 1e308, 2]]] * 4)
    tile = make_tile("x.jpg", 100, noise((48, 64, 3)), boxes, points, np.array([True, True, True, False]), "ü" * 300)
    assert tile.picture.shape == (280, 320, 3)


def broken_inside(path: Path) -> Path:
    """Write a JPEG that lacks bytes in its middle."""
    pixels = cv2.GaussianBlur(noise((240, 320, 3)), (0, 0), 3)
    content = encoded(".jpg", pixels)
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 300 :])
    return path


def test_a_jpeg_that_is_broken_inside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = yolo_set(tmp_path, {f"{k:02}": GOOD for k in range(40)})
    names = [broken_inside(tmp_path / "images" / "train" / f"{k:02}.jpg").name for k in (3, 30)]
    health = run_check(data)
    assert kinds(health) == {"image_corrupt": 2}
    found = next(kind for kind in health.kinds if kind.kind == "image_corrupt").examples
    assert sorted(Path(one.image).name for one in found) == names
    assert all("Corrupt JPEG data" in one.message for one in found)
    assert capfd.readouterr() == ("", ""), "no line without a name reaches the terminal"


def test_what_others_write_meanwhile_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with images_module.DecoderLog() as log:
        os.write(2, b"Corrupt JPEG data: 2 bytes\nanother thread's line\n")
        with images_module.DecoderLog():
            os.write(2, b"libpng warning: iCCP\n")
        assert log.size == 70
    assert capfd.readouterr().err == "another thread's line\n"
