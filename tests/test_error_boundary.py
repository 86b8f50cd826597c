"""A fault of the plugin stays its own."""

from __future__ import annotations

import pytest

from yolo_gradsafe.error_boundary import ErrorBoundary


def test_a_fault_is_reported_once_and_counted():
    reports = []
    boundary = ErrorBoundary(lambda place, trace: reports.append((place, trace)))
    for _ in range(3):
        with boundary("do something"):
            raise ValueError("planted")
    [(place, trace)] = reports
    assert place == "do something"
    assert "ValueError: planted" in trace
    assert boundary.faults == {"do something": 3}


def test_a_report_that_fails_as_well_is_no_fault_of_the_run():
    def report(place: str, trace: str) -> None:
        raise OSError("planted: disk full")

    boundary = ErrorBoundary(report)
    with boundary("do something"):
        raise ValueError("planted")
    assert boundary.faults == {"do something": 1}


def test_what_is_no_fault_passes():
    with pytest.raises(KeyboardInterrupt), ErrorBoundary(print)("wait"):
        raise KeyboardInterrupt


def test_errors_that_are_the_users_pass():
    with pytest.raises(ValueError, match="wrong option"), ErrorBoundary(print, reraise=(ValueError,))("start"):
        raise ValueError("wrong option")
