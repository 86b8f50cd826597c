"""Whose line of code: the user's, Ultralytics', or a library's."""

from __future__ import annotations

import linecache
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

__all__ = ["CodeRoots", "Frame", "Owner", "SourceLine", "responsible_line"]

Owner = Literal["user", "ultralytics", "library"]


@dataclass(frozen=True)
class Frame:
    """One entry of a Python stack; unlike Python's own frames it keeps nothing alive."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class SourceLine:
    """A line of code."""

    file: str
    """Its file's full path; ``<stdin>`` and the like for code without one."""
    line: int
    source: str
    """Its text without indentation; empty where there is none to read."""
    function: str
    """The function it is in, with its class where Python (3.11 on) knows it."""
    owner: Owner
    """Whose file it is; ``library`` is PyTorch, the standard library and every other installed package."""


@dataclass(frozen=True)
class CodeRoots:
    """Which folders are Ultralytics' and which hold libraries; the rest is the user's, a notebook's cells included.

    An inner folder goes before the one it is in: Ultralytics in ``site-packages`` is Ultralytics.
    """

    ultralytics: tuple[str, ...]
    libraries: tuple[str, ...]

    @classmethod
    def installed(cls) -> CodeRoots:
        """Return the folders of this Python; an editable clone of Ultralytics is Ultralytics, too."""
        paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        libraries = [
            *paths,
            *_package("torch"),
            *_package("torchvision"),
            *_package("numpy"),
            *_package("yolo_gradsafe"),
        ]
        return cls(tuple(_package("ultralytics")), tuple(libraries))

    def owner(self, file: str) -> Owner:
        """Return whose file it is."""
        if file.startswith(
            ("<frozen ", "<eval_with_key>", "<__array_function__", "torch/")
        ):  # made by Python, torch.fx
            return "library"
        if file.startswith("<"):
            return "user"
        file = _real(file)
        ultralytics = _depth(file, self.ultralytics)
        library = _depth(file, self.libraries)
        if not ultralytics and not library:
            return "user"
        return "ultralytics" if ultralytics >= library else "library"


def responsible_line(frames: Sequence[Frame], roots: CodeRoots) -> tuple[SourceLine | None, SourceLine | None]:
    """Return the line to look at, and where within Ultralytics it led to.

    Args:
        frames: A stack, innermost first.
        roots: Whose files are whose.

    Returns:
        The innermost line of the user; else Ultralytics' innermost; else the innermost; None without frames.
        Then Ultralytics' innermost line, where the user's code called it; else None.
    """
    owners = [roots.owner(frame.file) for frame in frames]
    for wanted in ("user", "ultralytics"):
        if wanted in owners:
            chosen = owners.index(wanted)
            within = owners.index("ultralytics") if "ultralytics" in owners[:chosen] else None
            return _read(frames[chosen], owners[chosen]), None if within is None else _read(
                frames[within], "ultralytics"
            )
    return (_read(frames[0], owners[0]), None) if frames else (None, None)


def _read(frame: Frame, owner: Owner) -> SourceLine:
    return SourceLine(frame.file, frame.line, linecache.getline(frame.file, frame.line).strip(), frame.function, owner)


def _package(name: str) -> list[str]:
    try:
        spec = find_spec(name)
    except ValueError:  # a module that was put together by hand
        spec = None
    return list(spec.submodule_search_locations or ()) if spec else []


@lru_cache(maxsize=4096)
def _real(file: str) -> str:
    return os.path.realpath(file)


def _depth(file: str, roots: Sequence[str]) -> int:
    """Return how deep the innermost of the folders lies that the file is in; 0 for none."""
    return max((len(Path(root).parts) for root in map(_real, roots) if file.startswith(root + os.sep)), default=0)
