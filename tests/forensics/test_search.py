"""The search among many: it finds who is to blame, in few trials, and knows when it cannot."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_gradsafe.forensics.search import Budget, Exhausted, search


class Trials:
    """Fails where one of the guilty takes part."""

    def __init__(self, guilty: set[int]) -> None:
        self.guilty = guilty
        self.count = 0

    def __call__(self, indices) -> bool:
        self.count += 1
        return bool(self.guilty & set(indices))


@given(st.integers(1, 200), st.data())
def test_one_culprit_is_found_in_log_n_trials(count, data):
    guilty = data.draw(st.integers(0, count - 1))
    trials = Trials({guilty})
    suspects = search(trials, count)
    assert suspects.found == [guilty]
    assert suspects.complete
    assert trials.count <= math.ceil(math.log2(count)) + 2


@given(st.integers(9, 64), st.data())
def test_a_few_culprits_are_all_found(count, data):
    # Not those that the search tries in order to see whether everything fails.
    guilty = data.draw(st.sets(st.integers(0, count - 2), min_size=1, max_size=2))
    suspects = search(Trials(guilty), count)
    assert (suspects.found, suspects.complete) == (sorted(guilty), True)


@pytest.mark.parametrize("count", [8, 16, 64])
def test_it_gives_up_soon_where_everything_fails(count):
    trials = Trials(set(range(count)))
    suspects = search(trials, count)
    assert (suspects.complete, suspects.cleared) == (False, False)
    assert trials.count <= math.log2(count) + 4


def test_all_of_a_few_are_told():
    suspects = search(Trials({0, 1, 2}), 3)
    assert (suspects.found, suspects.complete, suspects.cleared) == ([0, 1, 2], True, False)


def test_of_more_than_are_looked_for_some_are_told():
    suspects = search(Trials({1, 2, 3, 5, 6, 9}), 16)
    assert (suspects.found, suspects.complete, suspects.cleared) == ([1, 2, 3, 5], False, True)


def test_what_fails_only_together_is_nobodys_fault():
    suspects = search(lambda indices: {1, 6} <= set(indices), 8)
    assert (suspects.found, suspects.complete) == ([], False)


def test_what_was_found_before_the_budget_ended_is_kept():
    budget = Budget(60, 6)
    guilty = Trials({3, 5})

    def fails(indices) -> bool:
        budget.spend()
        return guilty(indices)

    suspects = search(fails, 7)
    assert (suspects.found, suspects.complete) == ([3], False)
    with pytest.raises(Exhausted, match="after 6 passes"):
        budget.spend()


def test_a_budget_of_time_ends():
    with pytest.raises(Exhausted):
        Budget(0, 100).spend()
