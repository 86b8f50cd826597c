"""Is fp16 wide enough for this training?"""

from __future__ import annotations

import re

from yolo_gradsafe.report.advice.facts import Facts, plural
from yolo_gradsafe.report.parts import Advice
from yolo_gradsafe.telemetry.schema import Kind, Remedy
from yolo_gradsafe.telemetry.sentences import capitalized

__all__ = ["overflows", "wider"]

SEARCH = 100
"""Steps at the start in which GradScaler looks for its scale."""
SHARE = 0.01
"""Share of overflows after that; one in 2000 steps is GradScaler's own probing."""
FEWEST = 5
"""Overflows that make a pattern."""
BF16 = (8, 4, 129)
"""Version of Ultralytics from which on ``amp=bf16`` is known."""


def overflows(facts: Facts) -> Advice | None:
    """Overflows that do not stop once the loss scale has settled, or steps that only overflow in fp16."""
    later = facts.rows.slice(SEARCH)
    count = int(later["overflow"].sum())
    raised = [i for i in facts.of_kind(Kind.PRECISION) if Remedy.PRECISION_LOWERED not in i.remedies]
    often = count >= FEWEST and count >= SHARE * later.height
    if not often and not raised:
        return None
    evidence = []
    if often:
        share = 100 * count / later.height
        evidence.append(f"{plural(count, 'step')} ({share:.1f} %) overflowed in fp16 after the scale had settled")
    if raised:
        evidence.append(f"the precision was raised during training, first in epoch {raised[0].epoch}")
    text = "; ".join(evidence)
    return Advice(
        rule="amp_overflow",
        title="Train in a precision with a larger range.",
        evidence=f"{capitalized(text)}. Each of them lost its optimizer step.",
        arguments=wider(facts),
    )


def wider(facts: Facts) -> str:
    """Return the argument for a precision that does not overflow, as far as the recorded Ultralytics knows one."""
    if any(i.precision_before == "bf16" for i in facts.of_kind(Kind.PRECISION)):
        return "amp=False"  # the run itself has tried bf16
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", facts.run.environment.get("ultralytics", ""))
    known = version and tuple(map(int, version.groups())) >= BF16
    return "amp=bf16" if known and facts.run.amp != "bf16" else "amp=False"
