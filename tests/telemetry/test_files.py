"""Whole lines or none, whole files or none, and bounded memory for what cannot be written."""

from __future__ import annotations

import resource
from contextlib import contextmanager

import pytest

from yolo_gradsafe.telemetry import files as module
from yolo_gradsafe.telemetry.files import Files, read_states, write_atomically


@contextmanager
def full_after(size: int):
    """Let no file of this process grow beyond a size, as on a disk that is full: the write stops in the middle."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path):
    told: list[str] = []
    files, path = Files(told.append), tmp_path / "steps.csv"
    files.append(path, "1,one\n", header="number,name\n")
    with full_after(25):
        files.append(path, "2,two\n3,three\n")
        assert path.read_text() == "number,name\n1,one\n"
        files.append(path, "4,four\n")
    assert (len(told), files.waiting) == (1, 3)
    files.append(path, "5,five\n", header="number,name\n")
    assert path.read_text() == "number,name\n1,one\n2,two\n3,three\n4,four\n5,five\n"
    assert (files.waiting, files.lost) == (0, 0)


def test_what_waits_is_bounded_and_the_newest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WAITING", 30)
    files, path = Files(lambda _: None), tmp_path / "no folder" / "steps.csv"
    for number in range(10):
        files.append(path, f"line {number}\n", header="header\n")
    assert files.lost + files.waiting == 10
    path.parent.mkdir()
    files.append(path, "", header="header\n")
    assert path.read_text() == "header\nline 6\nline 7\nline 8\nline 9\n"


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    with full_after(10), pytest.raises(OSError, match="too large"):
        write_atomically(path, "x" * 100)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"epochs": [1]}', '{"epochs": {"one": {}}}', '{"epochs": {"1": 2}}']
)
def test_a_state_that_is_none_of_ours_is_a_value_error(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match=r"epochs|line 1|'one'"):
        read_states(tmp_path / "state.json")


def test_no_state_is_no_error(tmp_path):
    assert read_states(tmp_path / "state.json") == {}
