"""Which cases there are: all combinations, or just enough of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from yolo_gradsafe.drill.case import Case
from yolo_gradsafe.drill.scenario import Scenario

__all__ = ["cover", "matrix"]


def matrix(
    scenarios: Iterable[Scenario], tasks: Iterable[str], precisions: Iterable[str], optimizers: Iterable[str]
) -> Iterator[Case]:
    """Yield every combination that makes sense."""
    tasks, precisions, optimizers = list(tasks), list(precisions), list(optimizers)
    for scenario in scenarios:
        for task in tasks:
            for precision in precisions:
                for optimizer in optimizers:
                    if scenario.fits(task, precision, optimizer):
                        yield Case(scenario.name, task, precision, optimizer)


def cover(cases: Sequence[Case]) -> Iterator[Case]:
    """Yield for each fault as few of its cases as meet every task, precision and optimizer once.

    Args:
        cases: The cases of the matrix, those of a fault one after the other.
    """
    for number, (_, group) in enumerate(groupby(cases, key=lambda case: case.fault)):
        left = list(group)
        start = number % len(left)
        left = left[start:] + left[:start]  # so that not every fault gets the same combinations
        wanted = {value for case in left for value in _values(case)}
        while wanted:
            best = max(left, key=lambda case: len(wanted & _values(case)))
            wanted -= _values(best)
            yield best


def _values(case: Case) -> set[str]:
    return {case.task, case.precision, case.optimizer}
