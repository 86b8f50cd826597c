"""How records get onto the disk: whole lines or none, whole files or none.

A disk that is full or a folder that cannot be written costs records and nothing else: it is told once, and lines wait
for the next time.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["Files", "csv_lines", "cut_after", "cut_half_line", "read_states", "write_atomically"]

_WAITING = 4 * 2**20
"""Characters of a file that wait to be written at most; of more the oldest lines are given up."""


class Files:
    """Writes files; never raises ``OSError``. No file stays open between writes.

    Args:
        tell: Called with the first failure, in one sentence.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told = False
        self._waiting: dict[Path, str] = {}
        self.lost = 0
        """Lines that were given up."""

    @property
    def waiting(self) -> int:
        """Lines that could not be written so far."""
        return sum(text.count("\n") for text in self._waiting.values())

    def append(self, path: Path, text: str, header: str = "") -> None:
        """Append whole lines as one write, and those that wait before them.

        Args:
            path: The file; made if it is missing.
            text: The lines, each with its end.
            header: What an empty file starts with.
        """
        text = self._waiting.pop(path, "") + text
        if text and not self.attempt(path, lambda: _append(path, text, header)):
            dropped = text[:-_WAITING].count("\n") + 1 if len(text) > _WAITING else 0
            self.lost += dropped
            self._waiting[path] = "".join(text.splitlines(keepends=True)[dropped:])

    def replace(self, path: Path, text: str) -> None:
        """Write a file anew, whole or not at all."""
        self.attempt(path, lambda: write_atomically(path, text))

    def attempt(self, path: Path, action: Callable[[], object]) -> bool:
        """Do something to a file or folder, and say whether it could be done."""
        try:
            action()
        except OSError as error:
            if not self._told:
                self._told = True
                self._tell(f"{path} cannot be written, training continues: {error.strerror or error}")
            return False
        return True


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, never sees half of it.

    Raises:
        OSError: It cannot be written; what was there is still there.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def cut_half_line(path: Path) -> None:
    """Remove what a crash left of a line, so that the next one starts on its own."""
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            path.write_bytes(data[: data.rfind(b"\n") + 1])


def cut_after(path: Path, epoch: int) -> None:
    """Remove the lines of later epochs, which are about to be trained once more.

    Args:
        path: A CSV file with the epoch in its first column, or JSON lines with an ``epoch``.
        epoch: Last epoch to keep, from 1.
    """
    if not path.is_file():
        return
    epoch_of = _epoch_of_json if path.suffix == ".jsonl" else _epoch_of_csv
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if epoch_of(line) <= epoch]
    if len(kept) < len(lines):
        write_atomically(path, "".join(kept))


def read_states(path: Path) -> dict[int, dict[str, Any]]:
    """Return what a ``state.json`` holds, by epoch; nothing where there is none.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not one of ours.
    """
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    try:
        return {int(epoch): dict(state) for epoch, state in values["epochs"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no state of epochs: {error}") from error


def _append(path: Path, text: str, header: str) -> None:
    """Append text, or leave the file as it was."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text if before else header + text)
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise


def _epoch_of_csv(line: str) -> int:
    first = line.split(",", 1)[0]
    return int(first) if first.isdigit() else 0  # the header


def _epoch_of_json(line: str) -> int:
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return 0
