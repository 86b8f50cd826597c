"""Sentences that users meet are plain English: none holds a phrase at which a reader has stopped before."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arm import ROOT

STOPPED_AT = (
    r"with the weights of before",
    r"no rule found a reason",
    r"(?:it|training) held at",
    r"\d of the rate",
    r"stopped to answer",
    r"every \S+\. one",
    r"weights can bear",
    r"weights bear",
    r"otherwise than",
    r"made otherwise",
    r"nothing of it",
    r"(?:healed|repaired) (?:1|\{\}) tensors",
    r"more of this kind is only recorded",
    r"gone bad",
    r"had to be skipped",
    r"not come to a step",
    r"out of (?:its|their) range, and trusted",
    r"and those behind it are not",
    r"says the same of every image",
    r"fell to nothing",
    r"\bmend\b",
    r"\bspoilt\b",
    r"start(?:s)? anew",
    r"stays out of it",
)
"""Phrases, as patterns; ``{}`` stands for what an f-string puts in."""
FORBIDDEN = re.compile("|".join(STOPPED_AT), re.IGNORECASE)

PACKAGE = sorted((ROOT / "yolo_gradsafe").rglob("*.py"))
PROSE = sorted(
    path
    for pattern in ("README.md", "docs/**/*.md", "configs/*.yaml", "yolo_gradsafe/**/*.j2", "yolo_gradsafe/**/*.js")
    for path in ROOT.glob(pattern)
)


def strings(source: str) -> Iterator[str]:
    """Yield the texts of a module that are printed or written: every string but the docstrings."""
    tree = ast.parse(source)
    places = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    seen = {id(node.value) for node in places}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            seen.update(map(id, node.values))
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in seen:
            yield node.value


def found(text: str) -> list[str]:
    """Return the phrases in a text, however its lines are broken."""
    return [match[0] for match in FORBIDDEN.finditer(" ".join(text.split()))]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_package_prints(path: Path):
    assert [phrase for text in strings(path.read_text(encoding="utf-8")) for phrase in found(text)] == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_users_read(path: Path):
    assert found(path.read_text(encoding="utf-8")) == []


def test_the_notebook():
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    text = [part for cell in cells for part in cell["source"]]
    text += [line for cell in cells for output in cell.get("outputs", []) for line in output.get("text", [])]
    assert found(" ".join(text)) == []


@pytest.mark.parametrize(
    ("source", "phrases"),
    [
        ('print(f"It held at {lr:.2g} of the rate.")', ["It held at"]),
        ('print("the weights " "had gone bad")', ["gone bad"]),
        ('print(f"repaired {count} tensors")', ["repaired {} tensors"]),
        ('def f():\n    """The weights had gone bad."""', []),
        ('print(f"rolled back to step {step}")', []),
    ],
)
def test_a_phrase_is_found_in_every_kind_of_string(source, phrases):
    assert [phrase for text in strings(source) for phrase in found(text)] == phrases
