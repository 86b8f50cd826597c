"""Whose line of code it is."""

from __future__ import annotations

import json
import linecache
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import ultralytics

import yolo_gradsafe
from yolo_gradsafe.forensics.source_line import CodeRoots, Frame, responsible_line

SITE = sysconfig.get_path("purelib")


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        (__file__, "user"),
        ("/home/me/my_loss.py", "user"),
        ("<stdin>", "user"),
        ("<string>", "user"),
        ("/tmp/ipykernel_7/123.py", "user"),
        (ultralytics.__file__, "ultralytics"),
        (torch.__file__, "library"),
        (np.__file__, "library"),
        (json.__file__, "library"),
        (yolo_gradsafe.__file__, "library"),
        (f"{SITE}/somebody/loss.py", "library"),
        ("<frozen runpy>", "library"),
        ("<eval_with_key>.3", "library"),
    ],
)
def test_owner(file, owner):
    assert CodeRoots.installed().owner(file) == owner


def test_the_inner_folder_counts():
    roots = CodeRoots(ultralytics=("/env/site/ultralytics",), libraries=("/env/site", "/env/site/ultralytics/vendored"))
    assert roots.owner("/env/site/ultralytics/loss.py") == "ultralytics"
    assert roots.owner("/env/site/ultralytics/vendored/x.py") == "library"
    assert roots.owner("/env/site/ultralytics_fork/x.py") == "library"
    assert roots.owner("/env/sites/x.py") == "user"


ROOTS = CodeRoots(ultralytics=("/ul",), libraries=("/lib",))
TORCH, ULTRALYTICS, OUTER = (
    Frame("/lib/torch.py", 1, "sum"),
    Frame("/ul/loss.py", 2, "iou"),
    Frame("/ul/a.py", 3, "call"),
)


def test_the_users_innermost_line_goes_first(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("first\n    second = 1\n")
    mine = Frame(str(file), 2, "forward")
    line, within = responsible_line([TORCH, ULTRALYTICS, mine, Frame(str(file), 1, "outer"), OUTER], ROOTS)
    assert (line.file, line.line, line.source, line.owner) == (str(file), 2, "second = 1", "user")
    assert (within.file, within.line) == ("/ul/loss.py", 2)
    assert responsible_line([TORCH, mine, ULTRALYTICS], ROOTS)[1] is None


def test_then_ultralytics_then_any():
    line, within = responsible_line([TORCH, ULTRALYTICS, OUTER], ROOTS)
    assert (line.file, line.owner, within) == ("/ul/loss.py", "ultralytics", None)
    assert responsible_line([TORCH], ROOTS)[0].owner == "library"
    assert responsible_line([], ROOTS) == (None, None)


def test_a_notebooks_cell_has_its_text(monkeypatch):
    monkeypatch.setitem(linecache.cache, "<ipython-input-3>", (9, None, ["y = x.sqrt()\n"], "<ipython-input-3>"))
    line, _ = responsible_line([Frame("<ipython-input-3>", 1, "<module>")], ROOTS)
    assert (line.source, line.owner) == ("y = x.sqrt()", "user")
    assert responsible_line([Frame("<stdin>", 1, "<module>")], ROOTS)[0].source == ""


def test_this_installation_is_known():
    roots = CodeRoots.installed()
    assert str(Path(ultralytics.__file__).parent) in roots.ultralytics
    assert str(Path(torch.__file__).parent) in roots.libraries


def test_links_are_followed(tmp_path):
    (tmp_path / "clone").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "clone")
    for root, file in (("link", "clone"), ("clone", "link")):
        roots = CodeRoots(ultralytics=(str(tmp_path / root),), libraries=())
        assert roots.owner(str(tmp_path / file / "loss.py")) == "ultralytics"
