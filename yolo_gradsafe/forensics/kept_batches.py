"""What is kept of a bad batch: a picture for people and, if asked, the batch itself for a replay."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_gradsafe.contact_sheet import save_picture
from yolo_gradsafe.forensics.archive import save_batch
from yolo_gradsafe.forensics.batch_sheet import draw_batch
from yolo_gradsafe.forensics.diagnosis import Diagnosis

__all__ = ["KeptBatches", "Saved", "archive_of", "stem"]

_OURS = re.compile(r"e(?P<epoch>\d+)_b\d+(_r\d+)?\.(jpg|npz)")


@dataclass(frozen=True)
class Saved:
    """What was kept, relative to the run's folder; empty where it was not."""

    picture: str = ""
    archive: str = ""
    problem: str = ""
    """Why something was not kept, or not whole."""


def stem(epoch: int, batch: int, rank: int = -1) -> str:
    """Return the name, without its end, of what is kept of a batch; epoch and batch count from 1."""
    return f"e{epoch:03d}_b{batch:04d}" + (f"_r{rank}" if rank > 0 else "")


def archive_of(run: Path, epoch: int, batch: int) -> Path:
    """Return where the batch of an incident is kept, if it is; that of the lowest rank that kept it."""
    folder = run / "stability" / "batches"
    first = folder / f"{stem(epoch, batch)}.npz"
    return first if first.is_file() else next(iter(sorted(folder.glob(f"{stem(epoch, batch)}_r*.npz"))), first)


class KeptBatches:
    """Keeps bad batches in a folder, up to a number of them; never raises.

    The first ones are kept: of a run that goes wrong in every step they show how it began.

    Args:
        folder: ``stability/batches`` of the run.
        keep: Pictures kept, and archives; 0 for none.
        archive: Keep the batch itself, too.
        rank: Rank of this process; it is a part of the file names from 1 on.
    """

    def __init__(self, folder: Path, keep: int = 20, archive: bool = False, rank: int = -1) -> None:
        self.folder = Path(folder)
        self._keep = keep
        self._archive = archive
        self._rank = rank

    def remove_after(self, epoch: int) -> None:
        """Remove what is there of later epochs: of an earlier run (0), or of those that a resumed run trains again.

        What stays counts. Only one process of a machine does it.
        """
        if self._rank < 1 and self.folder.is_dir():
            for path in self.folder.iterdir():
                if (ours := _OURS.fullmatch(path.name)) and int(ours["epoch"]) > epoch:
                    path.unlink(missing_ok=True)

    def keep(
        self,
        batch: Mapping[str, Any],
        epoch: int,
        number: int,
        culprit: Diagnosis,
        class_names: Mapping[int, str] | Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> Saved:
        """Keep a batch. Copies it to the host; takes a fraction of a second.

        Args:
            batch: The preprocessed batch, on any device.
            epoch: Epoch, from 1.
            number: Batch of the epoch, from 1.
            culprit: What the diagnosis came to.
            class_names: Class names by number.
            meta: What a replay should know besides: precision, task, ...
        """
        name, picture, archive, problems = stem(epoch, number, self._rank), "", "", []
        path = self.folder / name
        if self._room(path, ".jpg"):
            try:
                caption = f"epoch {epoch}, batch {number}: {culprit.sentence()}"
                save_picture(draw_batch(batch, caption, class_names, culprit.indices), path.with_suffix(".jpg"))
                picture = f"stability/{self.folder.name}/{name}.jpg"
            except Exception as error:  # a picture is never worth a run
                problems.append(f"no picture: {type(error).__name__}: {error}")
        if self._archive and self._room(path, ".npz"):
            about = {"epoch": epoch, "batch": number, "culprit": culprit.record(), **(meta or {})}
            try:
                left_out = save_batch(path.with_suffix(".npz"), batch, about)
                archive = f"stability/{self.folder.name}/{name}.npz"
                problems += [f"left out of the archive: {', '.join(left_out)}"] if left_out else []
            except Exception as error:
                problems.append(f"no archive: {type(error).__name__}: {error}")
        return Saved(picture, archive, "; ".join(problems))

    def _room(self, path: Path, end: str) -> bool:
        """Whether there is room for one more; a batch of the same name is written anew."""
        kept = [p for p in self.folder.glob(f"e*{end}") if _OURS.fullmatch(p.name)] if self.folder.is_dir() else []
        return path.with_suffix(end) in kept or len(kept) < self._keep
