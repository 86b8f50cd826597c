"""A batch on one page: who is framed, what is magenta, and nothing that it cannot draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_gradsafe.contact_sheet import MAGENTA, RED
from yolo_gradsafe.forensics.batch_sheet import draw_batch


def batch_of(count: int, side: int = 32, **more: object) -> dict[str, object]:
    return {
        "img": torch.full((count, 3, side, side), 0.5),
        "im_file": tuple(f"/data/{i:012d}.jpg" for i in range(count)),
        "batch_idx": torch.arange(count).float(),
        "cls": torch.zeros(count, 1),
        "bboxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]]).repeat(count, 1),
        **more,
    }


def share(sheet: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(sheet.astype(int) - colour).max(axis=2) < 12).mean())


@pytest.mark.parametrize("count", [1, 4, 16, 64, 100])
@pytest.mark.parametrize("side", [32, 640])
def test_it_is_of_a_size_to_look_at(count, side):
    if side == 640 and count > 16:
        pytest.skip("as slow as it is the same")
    sheet = draw_batch(batch_of(count, side), "caption", {0: "person"}, [count - 1])
    assert sheet.dtype == np.uint8
    assert max(sheet.shape[:2]) <= 2000
    assert min(sheet.shape[:2]) >= 480
    assert share(sheet, RED) > 0
    assert share(sheet, MAGENTA) == 0


def test_only_the_culprit_is_framed():
    sheet = draw_batch(batch_of(4), "caption", ["person"], [3])
    height, width = sheet.shape[:2]
    assert share(sheet[height // 2 + 40 :, width // 2 + 10 :], RED) > 0
    assert share(sheet[: height // 2, :], RED) == 0
    assert share(draw_batch(batch_of(4), "caption"), RED) == 0


def test_of_many_images_the_culprits_are_shown():
    sheet = draw_batch(batch_of(100), "caption", (), [97])
    assert share(sheet[:300, :300], RED) > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", [32, 1280])
def test_a_single_bad_pixel_can_be_seen(value, side):
    batch = batch_of(1, side)
    batch["img"][0, 1, 3, 5] = value
    assert share(draw_batch(batch, "caption"), MAGENTA) > 1e-5
    batch["img"][:] = value
    assert share(draw_batch(batch, "caption"), MAGENTA) > 0.4


def test_colours_are_those_of_the_image():
    batch = batch_of(1, bboxes=torch.zeros(1, 4), cls=torch.zeros(1, 1), batch_idx=torch.tensor([7.0]))
    batch["img"][0] = torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1)  # RGB
    assert share(draw_batch(batch, "caption"), (0, 128, 255)) > 0.5


def test_a_keypoint_is_drawn_where_it_is_visible():
    points = torch.tensor([[[0.25, 0.25, 2.0], [0.9, 0.9, 0.0]]])
    drawn = draw_batch(batch_of(1, keypoints=points), "caption")
    hidden = draw_batch(batch_of(1, keypoints=points * torch.tensor([1.0, 1.0, 0.0])), "caption")
    ys, xs = np.nonzero((drawn != hidden).any(axis=2))
    assert len(ys)
    assert max(xs) < drawn.shape[1] / 2


ODD = {
    "bytes": {"img": torch.full((2, 3, 8, 8), 99, dtype=torch.uint8)},
    "half": {"img": torch.full((2, 3, 8, 8), 0.5, dtype=torch.float16)},
    "grey": {"img": torch.rand(2, 1, 8, 8)},
    "spectral": {"img": torch.rand(2, 10, 8, 8)},
    "standardised": {"img": torch.randn(2, 3, 8, 8) * 3},
    "huge": {"img": torch.full((2, 3, 8, 8), 3e38)},
    "wide": {"img": torch.rand(2, 3, 8, 200)},
    "one pixel": {"img": torch.rand(2, 3, 1, 1)},
    "turned": {"bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.2, 0.7], [0.5, 0.5, 0.0, 0.0, 0.0]])},
    "nan labels": {"bboxes": torch.full((2, 4), float("nan")), "cls": torch.full((2, 1), float("nan"))},
    "far labels": {"bboxes": torch.full((2, 4), 1e30), "cls": torch.tensor([[1e6], [-3.0]])},
    "nan keypoints": {"keypoints": torch.full((2, 3, 2), float("nan"))},
    "no labels": {"bboxes": torch.zeros(0, 4), "cls": torch.zeros(0, 1), "batch_idx": torch.zeros(0)},
    "crowd": {"bboxes": torch.rand(900, 4), "cls": torch.zeros(900, 1), "batch_idx": torch.zeros(900)},
    "odd names": {"im_file": ("/\x00\n\t\udcff日本.jpg", "a" * 5000)},
}


@pytest.mark.parametrize("kind", ODD)
def test_whatever_is_in_a_batch_is_drawn(kind):
    sheet = draw_batch({**batch_of(2), **ODD[kind]}, "caption\n%s {} \\", {0: "x" * 300}, [0])
    assert share(sheet, RED) > 0


def test_a_batch_of_classification_is_drawn():
    draw_batch({"img": torch.rand(3, 3, 16, 16), "cls": torch.tensor([0, 1, 2])}, "caption", ["a", "b"], [1])
