"""The drill's result as a Markdown table that reads well on a terminal, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yolo_gradsafe.drill.case import Case
from yolo_gradsafe.drill.judgement import Clean, Judgement
from yolo_gradsafe.drill.outcome import Outcome
from yolo_gradsafe.drill.scenario import PARTS
from yolo_gradsafe.report.console import shown

__all__ = ["Row", "aligned", "outcome_words", "table"]

_LONGEST = 60
_HEADER = ("fault", "case", "stock", "guarded", "steps lost", "mAP50", "clean", "passed")


@dataclass(frozen=True)
class Row:
    """A case, and all that was found."""

    case: Case
    stock: Outcome | None
    """None when it was not trained."""
    guarded: Outcome
    clean: Clean
    judgement: Judgement
    learns: bool
    """Whether the accuracies mean something."""


def table(rows: Sequence[Row]) -> str:
    """Return the table, a line that counts, and what failed, without a line break at its end."""
    failed = [row for row in rows if not row.judgement.passed]
    lines = aligned(_HEADER, [_cells(row) for row in rows])
    lines += ["", f"{len(rows) - len(failed)} of {len(rows)} cases passed."]
    lines += [f"- {row.case}: {shown('; '.join(row.judgement.reasons))}" for row in failed]
    return "\n".join(lines)


def outcome_words(outcome: Outcome, clean: Clean, learns: bool) -> str:
    """Say in a few words what became of a training."""
    words = [f"died: {outcome.error}"[:_LONGEST]] if outcome.error else []
    if parts := [part for part, count in outcome.not_finite.items() if count]:
        words.append(f"not finite: {', '.join(parts) if len(parts) < len(PARTS) else 'all'}")
    if outcome.spoiled_saves:
        words.append(f"zero-filled saves: {outcome.spoiled_saves}")
    if outcome.epochs_redone:
        words.append(f"epochs redone: {outcome.epochs_redone}")
    if outcome.nan_rows:
        words.append(f"NaN rows: {outcome.nan_rows}")
    if outcome.rollbacks:
        words.append(f"rollbacks: {outcome.rollbacks}")
    if learns and not outcome.error:
        words.append(f"mAP50 {outcome.map50 or 0.0:.2f}")
    return "; ".join(words) or "finished"


def _cells(row: Row) -> tuple[str, ...]:
    clean, learns = row.clean, row.learns
    return (
        row.case.fault,
        f"{row.case.task} {row.case.precision} {row.case.optimizer}",
        outcome_words(row.stock, clean, learns) if row.stock else "",
        outcome_words(row.guarded, clean, learns),
        str(row.guarded.lost_to(clean.first)),
        f"{row.guarded.map50 or 0.0:.3f}" if learns else "",
        f"{clean.median:.3f} ±{clean.spread / 2:.3f}" if learns else "",
        "yes" if row.judgement.passed else "NO",
    )


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose columns are as wide as their widest cell."""
    cells = [[shown(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
