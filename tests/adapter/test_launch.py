"""What tells a guard from a user's own callbacks."""

from __future__ import annotations

import pytest

from yolo_gradsafe import GradSafe
from yolo_gradsafe.adapter import carries_guard


class Own(GradSafe):
    """A user's own kind of guard, which lives in a module of the user's."""


class Other:
    """No guard, although it has a method of the name."""

    def on_pretrain_routine_end(self, trainer: object) -> None:
        """Do nothing."""


@pytest.mark.parametrize(("owner", "guards"), [(GradSafe, True), (Own, True), (Other, False)])
def test_a_guard_is_known_by_its_class(owner, guards):
    assert carries_guard({"on_pretrain_routine_end": [owner().on_pretrain_routine_end]}) is guards


def test_functions_are_none():
    assert not carries_guard({"on_pretrain_routine_end": [lambda trainer: None]})
    assert not carries_guard({})
