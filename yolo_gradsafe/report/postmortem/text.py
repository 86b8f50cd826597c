"""The post-mortem as text: for a terminal, and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from yolo_gradsafe.report.console import WIDTH, row, shown
from yolo_gradsafe.report.escaped import code, plain
from yolo_gradsafe.report.postmortem.record import Postmortem

__all__ = ["accuracy", "markdown", "table"]

READ = "Checkpoints were read without running any code in them."


def table(found: Postmortem) -> str:
    """Return it as plain text, aligned, at most 80 columns wide but for commands, without a line break at its end."""
    lines = textwrap.wrap(shown(found.headline), WIDTH)
    for label, texts in _rows(found):
        for text in texts:
            lines += row(label, text)
            label = ""
    commands = [advice.command for advice in found.advice if advice.command]
    return "\n".join([*lines, *(f"\n  {shown(command)}" for command in commands)])  # on one line, to be pasted


def accuracy(found: Postmortem) -> str:
    """Return best and last accuracy in words; empty without one."""
    if found.best is None or found.last is None:
        return ""
    last = found.last if isinstance(found.last, str) else f"{found.last:.3g}"
    best = f"best {found.best:.3g} in epoch {found.best_epoch}, last {last}" if found.best else "0 throughout"
    return f"{found.accuracy}: {best}; learned: {found.learned}"


def _rows(found: Postmortem) -> Iterator[tuple[str, Iterable[str]]]:
    planned = f" of {found.planned}" if found.planned else ""
    yield "epochs", [f"{found.epochs}{planned} on record, {found.status}"]
    if said := accuracy(found):
        yield "accuracy", [said]
    if found.checkpoints:
        yield "checkpoints", [f"{shown(one.file)}: {shown(one.state)}" for one in found.checkpoints]
    for finding in found.findings:
        yield finding.severity, [shown(finding.title), f"  {shown(finding.evidence)}"]
    for number, advice in enumerate(found.advice):
        texts = [shown(advice.title), f"  {shown(advice.evidence)}"]
        texts += [f"  {shown(text)}" for text in (advice.arguments,) if text]
        yield "advice" * (number == 0), texts
    yield (
        "not on record",
        [
            "Gradient norms, steps, images, layers: only a guarded training has them.",
            *([READ] if found.checkpoints else []),
        ],
    )


def markdown(found: Postmortem) -> str:
    """Return it as GitHub's Markdown; text from outside cannot mark anything up."""
    lines = [f"## {plain(found.headline)}", ""]
    if found.about:
        lines += [" · ".join(plain(f"{name} {value}") for name, value in found.about.items()), ""]
    if said := accuracy(found):
        lines += [plain(said), ""]
    if found.findings:
        lines += ["### On record", ""]
        lines += [f"- {one.severity}: **{plain(one.title)}** {plain(one.evidence)}" for one in found.findings]
        lines.append("")
    if found.advice:
        lines += ["### Advice", ""]
    for advice in found.advice:
        lines.append(f"- **{plain(advice.title)}** {plain(advice.evidence)}")
        lines += [f"  `{code(text)}`" for text in (advice.arguments, advice.command) if text]
    return "\n".join(lines).rstrip() + "\n"
