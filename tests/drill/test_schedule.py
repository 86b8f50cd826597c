"""When faults strike."""

from __future__ import annotations

import pytest

from yolo_gradsafe.drill.schedule import Moment, Schedule, resolve


@pytest.mark.parametrize(
    ("where", "count", "place"),
    [(1, 8, 1), (8, 8, 8), (9, 8, 8), (-1, 8, 8), (-2, 8, 7), (-9, 8, 1), (0.5, 8, 4), (0.5, 3, 2), (0.0, 8, 1)],
)
def test_places(where, count, place):
    assert resolve(where, count) == place


def struck(schedule: Schedule, epochs: list[int], batches: int = 4) -> list[tuple[int, int, int]]:
    """Go through epochs, some of them again, and return pass, epoch and batch of every strike."""
    return [
        (number, epoch, batch)
        for number, epoch in enumerate(epochs)
        for batch in range(1, batches + 1)
        if schedule.due(Moment(epoch, batch, 3, batches))
    ]


def test_once():
    assert struck(Schedule(2, 3), [1, 2, 3]) == [(1, 2, 3)]
    assert struck(Schedule(-1, -1), [1, 2, 3]) == [(2, 3, 4)]


def test_an_epoch_that_is_redone_does_not_bring_it_back():
    assert struck(Schedule(2, 3), [1, 2, 2, 3]) == [(1, 2, 3)]
    assert struck(Schedule(1, 4, length=3), [1, 1, 2]) == [(0, 1, 4), (1, 1, 1), (1, 1, 2)]


def test_a_row_and_every_so_many():
    assert struck(Schedule(1, 4, length=2), [1, 2, 3]) == [(0, 1, 4), (1, 2, 1)]
    assert struck(Schedule(1, 2, length=2, every=4), [1, 2, 3]) == [(0, 1, 2), (1, 2, 2)]
    assert len(struck(Schedule(2, 1, length=0), [1, 2, 3])) == 8


def test_words():
    assert str(Schedule(0.5, -1)) == "the last batch of the middle epoch"
    assert str(Schedule(3, 1, length=200)) == "200 batches from the first batch of epoch 3 on"
