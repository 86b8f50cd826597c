"""The contact sheet: what a tile shows, how a page is laid out, and how text and files are written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolo_gradsafe.contact_sheet import (
    GREEN,
    GREY,
    MAGENTA,
    RED,
    Caption,
    Mark,
    draw_sheet,
    draw_tile,
    plain,
    save_picture,
    shorten,
)

NOWHERE = np.zeros((0, 3))


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return where a picture has a colour, (H, W)."""
    return np.abs(picture.astype(int) - colour).max(axis=2) < 12


@pytest.mark.parametrize(
    ("pixels", "colour"),
    [
        (np.full((6, 8, 3), (10, 20, 30), np.uint8), (10, 20, 30)),
        (np.full((6, 8, 3), 0x8000, np.uint16), (128, 128, 128)),
        (np.full((6, 8, 3), (10.0, 20.0, 300.0), np.float32), (10, 20, 255)),
        (np.full((6, 8), 90, np.uint8), (90, 90, 90)),
        (np.full((6, 8, 2), 90, np.uint8), (90, 90, 90)),
        (np.full((6, 8, 5), 90, np.float64), (90, 90, 90)),
    ],
)
def test_pixels_of_any_depth_are_shown(pixels, colour):
    assert near(draw_tile(pixels, (320, 240)), colour).all()


def test_an_image_is_in_the_middle_of_its_space():
    tile = draw_tile(np.full((100, 2000, 3), 50, np.uint8), (320, 240), captions=[Caption("a"), Caption("b")])
    assert tile.shape == (240 + 2 * 20, 320, 3)
    rows = near(tile, (50, 50, 50)).all(axis=1).nonzero()[0]
    assert (rows[0], rows[-1]) == (112, 127)


@pytest.mark.parametrize("pixels", [None, np.zeros((0, 0, 3), np.uint8)])
def test_what_cannot_be_read_is_a_cross(pixels):
    tile = draw_tile(pixels, (320, 240), [Mark(np.array([0.5, 0.5, 0.5, 0.5]), NOWHERE, RED)])
    assert near(tile, GREY)[120, 160]
    assert not near(tile, RED).any()


def test_a_box_lies_where_it_says():
    black = np.zeros((240, 320, 3), np.uint8)
    drawn = near(draw_tile(black, (320, 240), [Mark(np.array([0.5, 0.5, 0.25, 0.5]), NOWHERE, GREEN)]), GREEN)
    rows, columns = drawn.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (60, 180, 120, 200)


def test_what_is_not_finite_is_not_drawn_and_the_rest_is():
    black = np.zeros((240, 320, 3), np.uint8)
    points = np.array([[np.nan, 0.5, 2.0], [0.75, 0.5, 2.0], [0.25, 0.5, 0.0]])
    drawn = near(draw_tile(black, (320, 240), [Mark(np.array([0.5, np.nan, 0.2, 0.2]), points, GREEN)]), GREEN)
    rows, columns = drawn.nonzero()
    assert abs(columns - 240).max() <= 3
    assert abs(rows - 120).max() <= 3


def test_the_last_mark_is_on_top():
    box = np.array([0.5, 0.5, 0.5, 0.5])
    tile = draw_tile(np.zeros((240, 320, 3), np.uint8), (320, 240), [Mark(box, NOWHERE, c) for c in (GREEN, RED)])
    assert near(tile, RED).any()
    assert not near(tile, GREEN).any()


def test_few_bad_pixels_are_ringed_and_many_are_not():
    pixels = np.zeros((240, 320, 3), np.float32)
    pixels[100, 100] = np.nan
    assert near(draw_tile(pixels, (320, 240)), MAGENTA).sum() > 50
    pixels[:, :160] = np.inf
    assert near(draw_tile(pixels, (320, 240)), MAGENTA).sum() == 240 * 160


def test_a_page_has_its_tiles_in_rows_and_wraps_its_title():
    tiles = [draw_tile(None, (320, 240))] * 5
    assert draw_sheet(tiles, "title", 4).shape == (32 + 2 * 248 + 8, 4 * 328 + 8, 3)
    assert draw_sheet(tiles, "many words " * 20, 4).shape[0] == 52 + 2 * 248 + 8
    assert draw_sheet(tiles, "many words " * 999, 4).shape[0] == 132 + 2 * 248 + 8


def test_a_frame_hides_nothing_of_its_tile():
    tile = draw_tile(np.zeros((240, 320, 3), np.uint8), (320, 240))
    sheet = draw_sheet([tile, tile], "", 2, framed=[1])
    assert (sheet[32:272, 336:656] == tile).all()
    assert near(sheet, RED)[30, 336:656].all()
    assert not near(sheet, RED)[:, :320].any()


def test_text_becomes_what_the_font_has():
    assert plain("Übergröße – 日本.jpg") == "Ubergro?e ? ??.jpg"
    assert shorten("0123456789" * 20 + "_end.jpg", 200, 0.42).endswith("end.jpg")
    assert len(shorten("0123456789" * 20, 200, 0.42)) < 50
    assert shorten("", 10, 0.42) == ""


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "täst.jpg"
    save_picture(draw_sheet([draw_tile(None, (320, 240))], "title", 1), path)
    assert cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), 1) is not None
    assert [p.name for p in path.parent.iterdir()] == ["täst.jpg"]
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_picture(draw_sheet([draw_tile(None, (320, 240))], "title", 1), path.with_name("b.jpg"))
    assert [p.name for p in path.parent.iterdir()] == ["täst.jpg"]
