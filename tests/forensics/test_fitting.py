"""A pass is made to fit into the memory that is left, and says how much of the batch it has seen."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from yolo_gradsafe.adapter.replay import ReplayResult
from yolo_gradsafe.forensics.fitting import in_parts, parts_that_fit, run_fitting
from yolo_gradsafe.forensics.slicing import images_in

FULL = torch.cuda.OutOfMemoryError("CUDA out of memory. Planted.")


def batch(images: int = 8) -> dict[str, torch.Tensor]:
    return {"img": torch.arange(images).float().view(-1, 1, 1, 1)}


class Replay:
    """Has room for so many images a pass, by precision and with or without a backward pass; image 5 is bad.

    Args:
        precision: The training's.
        room: Images that fit.
    """

    def __init__(self, precision: str = "fp32", room: dict[tuple[str, bool], int] | None = None) -> None:
        self.precision, self.images, self.room = precision, 8, room or {}
        self.memory = SimpleNamespace(free=math.inf, most_used=0)
        self.passes: list[tuple[int, str, bool]] = []

    def run(self, part, precision, backward):
        self.passes.append((images_in(part), precision, backward))
        if images_in(part) > self.room.get((precision, backward), 8):
            raise FULL
        values = part["img"].flatten().tolist()
        bad = ("a.weight",) if backward and 5 in values else ()
        return ReplayResult(sum(values), {"box_loss": sum(values) / len(values)}, bad)


def test_with_room_for_all_it_is_one_pass_over_the_batch_itself():
    replay = Replay()
    seen = run_fitting(replay, batch())
    assert (seen.total, seen.items, seen.whole) == (28.0, {"box_loss": 3.5}, True)
    assert replay.passes == [(8, "fp32", False)]


def test_it_goes_down_in_halves_and_the_results_are_put_together():
    replay = Replay(room={("fp32", True): 2})
    seen = run_fitting(replay, batch(), backward=True)
    assert (seen.total, seen.items, seen.bad_gradients) == (28.0, {"box_loss": 3.5}, ("a.weight",))
    assert (seen.parts, seen.whole) == (4, False)
    assert [images for images, *_ in replay.passes] == [8, 4, 2, 2, 2, 2]


def test_parts_of_different_size_count_by_their_images():
    seen = run_fitting(Replay(room={("fp32", False): 3}), batch(5))
    assert seen.parts == 2
    assert seen.items["box_loss"] == pytest.approx(2.0)


def test_fp32_gives_way_to_bf16_which_has_its_range():
    seen = run_fitting(Replay("fp16", {("fp32", True): 0}), batch(), "fp32", backward=True)
    assert seen.bad_gradients == ("a.weight",)
    assert seen.whole


def test_at_last_the_backward_pass_is_left_out_and_that_is_said():
    replay = Replay("fp16", {("fp32", True): 0, ("bf16", True): 0})
    seen = run_fitting(replay, batch(), "fp32", backward=True)
    assert (seen.left_out, seen.whole, seen.finite) == (True, False, True)
    assert replay.passes[-1] == (8, "fp32", False)


def test_where_not_even_an_image_fits_the_error_is_the_callers():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run_fitting(Replay(room={("fp32", False): 0}), batch())


def test_other_errors_are_not_tried_again():
    calls = []

    def attempt(pieces):
        calls.append(len(pieces))
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        in_parts(attempt, batch())
    assert calls == [1]


@pytest.mark.parametrize(("precision", "backward", "parts"), [
    ("fp32", True, 4),  # twice training's 100 bytes, with 80 free and a margin
    ("fp16", True, 2),
    ("fp32", False, 1),
])  # fmt: skip
def test_a_pass_that_would_not_fit_is_not_begun_whole(precision, backward, parts):
    replay = Replay("fp16")
    replay.memory = SimpleNamespace(free=80, most_used=100)
    assert parts_that_fit(replay, batch(), precision, backward) == parts


def test_few_images_need_little_of_what_training_did():
    replay = Replay("fp16")
    replay.memory = SimpleNamespace(free=80, most_used=100)
    assert parts_that_fit(replay, batch(2), "fp32", True) == 1
