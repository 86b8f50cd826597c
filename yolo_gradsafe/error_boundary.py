"""A fault of the plugin never kills a run: it is caught, logged once, and remembered."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["ErrorBoundary"]


class ErrorBoundary:
    """Runs the plugin's own work so that its errors stay its own.

    Args:
        report: Called with the place and the traceback at the first fault of each place; what it raises is dropped.
        reraise: Errors that are the user's, to be raised as they are.
    """

    def __init__(self, report: Callable[[str, str], None], reraise: tuple[type[Exception], ...] = ()) -> None:
        self.faults: Counter[str] = Counter()
        """Faults by place."""
        self._report = report
        self._let_pass = reraise

    @contextmanager
    def __call__(self, place: str) -> Iterator[None]:
        """Catch what the body raises.

        Args:
            place: What the plugin was doing, for the log, as in "could not ...".
        """
        try:
            yield
        except self._let_pass:
            raise
        except Exception:
            self.faults[place] += 1
            if self.faults[place] == 1:
                with suppress(Exception):
                    self._report(place, traceback.format_exc())
